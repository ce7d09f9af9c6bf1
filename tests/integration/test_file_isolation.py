# SPDX-License-Identifier: Apache-2.0
"""Isolation of files: a job can neither read nor write the files of other jobs."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest

from airflow_asyncaction.protocol.lifecycle import Exit
from tests.integration.databases import Database
from tests.integration.file_servers import Folder, Serve, one_server_each
from tests.integration.file_transfers import (
    announce,
    announcement,
    download,
    locate,
    outputs,
    put_content,
    upload,
)
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob, encoded, registered
from tests.integration.stored_dags import StoredRun, lineage_dag, run_of, store_dag

pytestmark = [pytest.mark.integration, one_server_each]

SIZE = 500
UNKNOWN = "01890000-0000-7000-8000-000000000000"
MALFORMED = ["x", "0", "00000000", UNKNOWN + "0", UNKNOWN.replace("-", ""), f"{{{UNKNOWN}}}", "a" * 3_000]
NOT_YOURS = (403, "not_yours")
UNSIGNED = (401, "bad_signature")


# --- whose files


@pytest.fixture(scope="session")
def stored_dags(database: Database) -> tuple[str, str]:
    """Return the ids of two identical Dags."""
    dag_ids = f"lineage-{secrets.token_hex(4)}", f"other-{secrets.token_hex(4)}"
    for dag_id in dag_ids:
        store_dag(database.engine, lineage_dag(dag_id))
    return dag_ids


class Lineage:
    """The job that downloads, and the jobs whose files it requests."""

    def __init__(self, database: Database, client: HookClient, dag_ids: tuple[str, str]) -> None:
        self._engine = database.engine
        self._client = client
        self._dag_id, self._other_dag_id = dag_ids
        self._run = run_of(self._engine, self._dag_id)
        self.reader = self.job(self._run.task("reader", 0))

    def job(self, task: RunningTask) -> SignedJob:
        """Return the job of a task."""
        return registered(task, self._client)

    def owner(self, name: str) -> SignedJob:
        """Return a job by its relation to the downloading job."""
        other_run: Callable[[], StoredRun] = lambda: run_of(self._engine, self._dag_id)  # noqa: E731
        other_dag: Callable[[], StoredRun] = lambda: run_of(self._engine, self._other_dag_id)  # noqa: E731
        tasks: dict[str, Callable[[], RunningTask]] = {
            "near": lambda: self._run.task("near", 0),
            "near, another index": lambda: self._run.task("near", 1),
            "far": lambda: self._run.task("far"),
            "own task, another index": lambda: self._run.task("reader", 1),
            "downstream": lambda: self._run.task("later"),
            "sibling": lambda: self._run.task("sibling"),
            "removed task": lambda: self._run.task("removed"),
            "upstream in another run": lambda: other_run().task("far"),
            "itself in another run": lambda: other_run().task("reader", 0),
            "upstream in another Dag": lambda: other_dag().task("far"),
        }
        return self.reader if name == "own" else self.job(tasks[name]())


READABLE = ["own", "near", "near, another index", "far"]
FOREIGN = [
    "own task, another index",
    "downstream",
    "sibling",
    "removed task",
    "upstream in another run",
    "itself in another run",
    "upstream in another Dag",
]


@pytest.fixture
def lineage(database: Database, client: HookClient, stored_dags: tuple[str, str]) -> Lineage:
    return Lineage(database, client, stored_dags)


def complete(job: SignedJob, property_: str, of: str) -> Answer:
    return job.send("POST", f"/upload/default/{of}/{property_}/0/complete")


@pytest.mark.parametrize("name", READABLE)
def test_a_job_has_its_own_files_and_those_upstream(lineage: Lineage, name: str) -> None:
    owner, content = lineage.owner(name), secrets.token_bytes(SIZE)
    upload(owner, "model", content)
    assert download(lineage.reader, "model", of=owner.info.job_id).content == content
    assert download(lineage.reader, "model", of=owner.info.job_id.upper()).content == content


@pytest.mark.parametrize("name", FOREIGN)
def test_a_job_cannot_access_files_of_other_actions(lineage: Lineage, name: str) -> None:
    owner = lineage.owner(name)
    upload(owner, "model", secrets.token_bytes(SIZE))
    assert locate(lineage.reader, "model", of=owner.info.job_id).error == NOT_YOURS
    assert locate(lineage.reader, "none", of=owner.info.job_id).error == NOT_YOURS


@pytest.mark.parametrize("name", [name for name in READABLE + FOREIGN if name != "own"])
def test_a_job_leaves_files_with_itself_alone(lineage: Lineage, name: str) -> None:
    owner, content = lineage.owner(name), secrets.token_bytes(SIZE)
    upload(owner, "model", content)
    for property_ in ("model", "new"):
        assert announce(lineage.reader, property_, content, of=owner.info.job_id).error == NOT_YOURS
        assert complete(lineage.reader, property_, owner.info.job_id).error == NOT_YOURS
    assert [file["property"] for file in outputs(owner)] == ["model"]


def test_a_job_leaves_files_with_itself(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    assert announce(job, "model", content, of=job.info.job_id.upper()).status == 200
    assert complete(job, "model", job.info.job_id).error == (409, "content_missing")
    upload(job, "model", content)
    assert complete(job, "model", job.info.job_id.upper()).status == 200
    assert complete(job, "other", job.info.job_id).error == (404, "no_such_file")


@pytest.mark.parametrize("uuid", [UNKNOWN, *MALFORMED], ids=lambda uuid: uuid[:40])
def test_an_unknown_uuid_belongs_to_no_action(job: SignedJob, uuid: str) -> None:
    upload(job, "model", secrets.token_bytes(SIZE))
    assert locate(job, "model", of=uuid).error == NOT_YOURS
    assert announce(job, "model", b"", of=uuid).error == NOT_YOURS
    assert complete(job, "model", uuid).error == NOT_YOURS


def test_a_dag_that_is_not_stored_has_no_upstream(database: Database, client: HookClient) -> None:
    run = run_of(database.engine, f"removed-{secrets.token_hex(4)}")
    owner, reader = registered(run.task("far"), client), registered(run.task("reader"), client)
    upload(owner, "model", secrets.token_bytes(SIZE))
    assert locate(reader, "model", of=owner.info.job_id).error == NOT_YOURS
    assert locate(owner, "model").status == 200


def test_a_task_that_is_not_in_its_dag_any_more_has_no_upstream(lineage: Lineage) -> None:
    removed, far = lineage.owner("removed task"), lineage.owner("far")
    upload(far, "model", secrets.token_bytes(SIZE))
    assert locate(removed, "model", of=far.info.job_id).error == NOT_YOURS


def test_files_of_an_upstream_job_that_has_ended_can_be_had(lineage: Lineage) -> None:
    owner, content = lineage.owner("near"), secrets.token_bytes(SIZE)
    upload(owner, "model", content)
    owner.report(status="SUCCESS")
    owner.send_message(Exit(code=0))
    assert download(lineage.reader, "model", of=owner.info.job_id).content == content


# --- who asks


REQUESTS = [
    ("PUT", "/upload/default/{id}/new", announcement(b"x")),
    ("POST", "/upload/default/{id}/model/0/complete", {}),
    ("GET", "/download/default/{id}/model/0", {}),
    ("PUT", "/task/inputs/default/data", announcement(b"x")),
    ("POST", "/task/inputs/default/data/0/complete", {}),
    ("POST", "/task/inputs/data/link", {"action": UNKNOWN, "property": "x", "index": 0, "sha256": "0" * 64}),
    ("GET", "/task/outputs", {}),
]
by_request = pytest.mark.parametrize(
    ("method", "path", "body"), REQUESTS, ids=[path for _, path, _ in REQUESTS]
)


@by_request
def test_who_does_not_sign_gets_nothing(
    new_job: NewJob, method: str, path: str, body: dict[str, Any]
) -> None:
    job, other = new_job(), new_job()
    upload(job, "model", secrets.token_bytes(SIZE))
    path = path.format(id=job.info.job_id)
    thief = job.forged(secrets_of=other)
    nobody = job.forged(job_id=UNKNOWN)
    assert job.client.send(method, path, encoded(body)).error == UNSIGNED
    assert thief.send(method, path, body).error == UNSIGNED
    assert thief.send_v1(method, path, body).error == UNSIGNED
    assert nobody.send(method, path, body).error == UNSIGNED
    assert [file["property"] for file in outputs(job)] == ["model"]


@by_request
def test_a_signature_is_for_one_body_and_one_path(
    job: SignedJob, method: str, path: str, body: dict[str, Any]
) -> None:
    path = path.format(id=job.info.job_id)
    headers = job.headers(method, path, encoded(body))
    assert job.client.send(method, path, encoded(body) + b" ", headers).error == UNSIGNED
    assert job.client.send(method, path + "?redirect=true", encoded(body), headers).error == UNSIGNED


@pytest.mark.parametrize(
    ("method", "path", "body"), REQUESTS[:-1], ids=[path for _, path, _ in REQUESTS[:-1]]
)
def test_a_superseded_job_is_requested_to_stop(
    client: HookClient,
    new_task: Callable[..., RunningTask],
    method: str,
    path: str,
    body: dict[str, Any],
) -> None:
    task = new_task()
    job = registered(task, client)
    upload(job, "model", secrets.token_bytes(SIZE))
    registered(task.next_try(), client)
    assert job.send(method, path.format(id=job.info.job_id), body).error == (410, "superseded")


@pytest.mark.parametrize(
    ("method", "path", "body"), REQUESTS[:-1], ids=[path for _, path, _ in REQUESTS[:-1]]
)
def test_an_action_that_has_ended_takes_and_gives_no_more_files(
    job: SignedJob, method: str, path: str, body: dict[str, Any]
) -> None:
    upload(job, "model", secrets.token_bytes(SIZE))
    job.report(status="SUCCESS")
    job.send_message(Exit(code=0))
    assert job.send(method, path.format(id=job.info.job_id), body).error == (409, "already_ended")
    assert [file["property"] for file in outputs(job)] == ["model"]


def test_a_content_on_its_way_when_its_job_was_superseded_is_not_kept(
    serve: Serve, folder: Folder, new_task: Callable[..., RunningTask]
) -> None:
    task, client, content = new_task(), serve(), secrets.token_bytes(SIZE)
    job = registered(task, client)
    url = announce(job, "model", content).fields["url"]
    again = registered(task.next_try(), client)
    assert put_content(job, url, content).error == (410, "superseded")
    assert outputs(again) == []
    assert folder.names() == set()


def test_a_content_on_its_way_when_its_action_ended_is_not_kept(
    serve: Serve, folder: Folder, new_task: Callable[..., RunningTask]
) -> None:
    job, content = registered(new_task(), serve()), secrets.token_bytes(SIZE)
    url = announce(job, "model", content).fields["url"]
    job.report(status="SUCCESS")
    job.send_message(Exit(code=0))
    assert put_content(job, url, content).error == (409, "already_ended")
    assert outputs(job) == []
    assert folder.names() == set()
