# SPDX-License-Identifier: Apache-2.0
"""Task keys: job and task have a secret each, which is only valid for their own routes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import update

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.lifecycle import Exit, Launched
from airflow_asyncaction.protocol.runner_messages import message_to_json
from airflow_asyncaction.protocol.tasks import Deferral, NeedsWorker
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.web.app import create_app
from tests.integration.databases import Database
from tests.integration.file_transfers import (
    announcement,
    content_request,
    give_input,
    link_input,
    locate,
    outputs,
    put_content,
    upload,
)
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob, register, registered

pytestmark = pytest.mark.integration

UNSIGNED = (401, "bad_signature")
DEFERRAL = Deferral(needs_worker=NeedsWorker.ALWAYS).to_json()
OF_JOBS, OF_TASKS = {"jobs", "files"}, {"tasks", "task_files"}
OF_OTHERS = {"contents", "openapi", "page", "users"}
UNSIGNED_ROUTES = {"tasks.register_action"}  # the task state store authenticates it


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


def signed_routes(blueprints: set[str], action_id: str) -> Iterator[tuple[str, str]]:
    """Yield method and path of each route of these blueprints that takes signed requests."""
    values = {"store": "default", "uuid": action_id, "property_": "data", "index": 0}
    with create_app().test_request_context("/") as context:
        for rule in context.url_adapter.map.iter_rules() if context.url_adapter else ():
            if rule.endpoint.partition(".")[0] in blueprints and rule.endpoint not in UNSIGNED_ROUTES:
                built = rule.build({name: values[name] for name in rule.arguments})
                assert built is not None
                for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                    yield method, built[1].rstrip("/")


@pytest.mark.usefixtures("database")
def test_each_route_belongs_to_a_job_to_a_task_or_to_users() -> None:
    blueprints = {rule.endpoint.partition(".")[0] for rule in create_app().url_map.iter_rules()}
    assert blueprints == OF_JOBS | OF_TASKS | OF_OTHERS
    assert len(set(signed_routes(OF_JOBS, "x"))) == 6
    assert len(set(signed_routes(OF_TASKS, "x"))) == 9
    assert all(path.startswith("/task/") for _, path in signed_routes(OF_TASKS, "x"))


@pytest.mark.parametrize("blueprints", [OF_JOBS, OF_TASKS], ids=["jobs", "tasks"])
def test_the_others_secret_opens_no_route(job: SignedJob, blueprints: set[str]) -> None:
    for method, path in signed_routes(blueprints, job.info.job_id):
        assert job.swapped().send(method, path).error == UNSIGNED, path
        assert job.swapped().send_v1(method, path).error == UNSIGNED, path
        assert job.send(method, path).status != 401, path


def test_a_job_cannot_say_how_it_exited(job: SignedJob) -> None:
    assert job.swapped().send("POST", "/task/message", message_to_json(Exit(code=0))).error == UNSIGNED
    assert not job.view().has_exit


def test_a_job_cannot_link_the_files_of_others(new_job: NewJob) -> None:
    victim, thief = new_job(), new_job()
    upload(victim, "model", secrets.token_bytes(100))
    (record,) = outputs(victim)
    assert link_input(thief.swapped(), "stolen", record).error == UNSIGNED
    assert locate(thief, "stolen").error == (404, "no_such_file")
    assert link_input(thief, "given", record).status == 200  # its task may
    assert locate(thief, "given").status == 200


def test_registration_gives_the_task_a_key_that_is_not_the_jobs(
    new_task: Callable[..., RunningTask], client: HookClient
) -> None:
    task = new_task()
    nonce = task.commit()
    first, again = register(task, client, nonce).fields, register(task, client, nonce).fields
    assert first == again
    assert len(first["taskKey"].encode("ascii")) * 6 >= 256
    assert first["taskKey"] != first["secretKey"]
    other = registered(new_task(), client)
    assert other.task.secret_key not in (first["taskKey"], other.info.secret_key)


def test_the_key_is_handed_out_to_who_adopts_the_action(
    new_task: Callable[..., RunningTask], client: HookClient
) -> None:
    task = new_task()
    job = registered(task, client, adoptable=True)
    again = task.next_try()
    fields = register(again, client, again.commit(), adoptable=True).fields
    assert (fields["actionId"], fields["taskKey"]) == (job.info.job_id, job.task.secret_key)


def as_before_task_keys(database: Database, job: SignedJob) -> SignedJob:
    """Make an action one that was registered before tasks had keys."""
    with database.engine.begin() as connection:
        query = update(action_table).where(action_table.c.id == job.info.job_id)
        connection.execute(query.values(task_key=None))
    known = job.swapped()  # whose task signs with the job's secret
    return SignedJob(job.info, known.task, job.client)


def test_an_action_that_runs_during_the_upgrade_continues(
    database: Database, new_task: Callable[..., RunningTask], client: HookClient
) -> None:
    task = new_task()
    job = as_before_task_keys(database, registered(task, client, adoptable=True))
    job.send_message(Launched({"pod": "x"}))
    assert job.send("POST", "/task/defer", DEFERRAL).status == 200
    fields = register(task, client, task.commit(), adoptable=True).fields
    assert fields["taskKey"] == fields["secretKey"] == job.info.secret_key
    assert job.report(status="SUCCESS").status == 200
    job.send_message(Exit(code=0))
    assert job.view().is_done


def v1_upload(job: SignedJob, property_: str, content: bytes) -> Answer:
    path = f"/upload/default/{job.info.job_id}/{property_}"
    announced = job.send_v1("PUT", path, announcement(content))
    assert announced.status == 200, announced
    return put_content(job, announced.fields["url"], content)


def test_a_v1_job_is_not_locked_out_by_what_its_task_does(job: SignedJob, new_job: NewJob) -> None:
    content, upstream = secrets.token_bytes(100), new_job()
    upload(upstream, "model", content)
    task: list[Callable[[], Any]] = [
        lambda: give_input(job, "given", content, name="g"),
        lambda: link_input(job, "linked", outputs(upstream)[0]),
        lambda: job.send_message(Launched({"pid": 1})),
        lambda: job.send("POST", "/task/defer", DEFERRAL),
        lambda: job.send("POST", "/task/reap"),
        job.view,
        lambda: outputs(job),
    ]
    for number, act in enumerate(task):
        act()
        assert job.send_v1("POST", "/status", {"logs": [f"line {number}"]}).status == 200
    for property_ in ("given", "linked"):
        located = job.send_v1("GET", f"/download/default/{job.info.job_id}/{property_}/0")
        assert content_request(job.client, "GET", located.fields["Location"]).body == content
    assert v1_upload(job, "left", content + b"!").status == 200
    assert job.send_v1("POST", "/status", {"status": "SUCCESS", "results": 7}).status == 200
    assert [file["property"] for file in outputs(job)] == ["left"]
    job.send_message(Exit(code=0))
    view = job.view()
    assert (view.state, view.results, view.is_done) == (State.SUCCESS, "7", True)
    assert [line.message for line in view.logs if line.message.startswith("line ")] == [
        f"line {number}" for number in range(len(task))
    ]
