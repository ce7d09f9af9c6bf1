# SPDX-License-Identifier: Apache-2.0
"""Secrets that Airflow masks in a task log are masked in reports, and stored only encrypted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow._shared.secrets_masker import redact
from airflow.sdk import DAG, BaseOperator
from sqlalchemy import delete, select, update

from airflow_asyncaction.protocol.lifecycle import Exit, Launched
from airflow_asyncaction.protocol.masking import MAX_VALUES
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.protocol.tasks import Deferral, NeedsWorker
from airflow_asyncaction.store import listing, secret
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.models import action_table, metadata
from tests.integration.databases import Database
from tests.integration.file_transfers import upload
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import HookClient, NewJob, SignedJob, registered
from tests.integration.stored_dags import run_of, store_dag
from tests.integration.user_site import UserSite, user_site

pytestmark = pytest.mark.integration

PASSWORD = 'p@ss "word"/1'
ARGUMENTS = {"url": f"db://user:{PASSWORD}@host", "deep": [{"api_key": "by its name"}], "n": 1}
SHOWN = {"url": "db://user:***@host", "deep": [{"api_key": "***"}], "n": 1}


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


@pytest.fixture
def job(new_job: NewJob) -> SignedJob:
    """Return a job whose task knows a password."""
    return new_job(secrets=(PASSWORD,), arguments=JsonText(json.dumps(ARGUMENTS)))


def stored(database: Database, action_id: str) -> str:
    """Return all that our tables have of an action, as text."""
    found: list[Any] = []
    with database.engine.connect() as connection:
        for table in metadata.tables.values():
            for name in {"action_id", "id"} & set(table.c.keys()):
                if table.c[name].type.python_type is str:
                    found += connection.execute(select(table).where(table.c[name] == action_id)).all()
    return str(found)


def shows_secret(text: str) -> bool:
    """Return whether a text has a secret, however it is escaped."""
    return "p@ss" in text or "by its name" in text


def record(actions: Actions, job: SignedJob) -> dict[str, Any]:
    """Return an action as users are shown it."""
    return listing.find(actions.database, job.info.job_id).to_json(datetime.now(UTC))


def test_only_the_job_gets_unmasked_arguments(database: Database, actions: Actions, job: SignedJob) -> None:
    assert job.send("GET", "/job").fields["arguments"] == ARGUMENTS
    assert job.report(status="RUNNING").fields["arguments"] == ARGUMENTS
    resent = {"nonce": "n" * 20, "status": "RUNNING"}
    assert [job.report(**resent).fields["arguments"] for _ in range(2)] == [ARGUMENTS] * 2
    assert record(actions, job)["arguments"] == SHOWN
    assert not shows_secret(stored(database, job.info.job_id))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"password": "x", "n": {"API-Key": ["x", 1]}}, {"password": "***", "n": {"API-Key": ["***", 1]}}),
        ({"my_token": {"a": {"b": "x"}}, "token": None}, {"my_token": {"a": {"b": "***"}}, "token": None}),
        ({"user": "x", "rows": [True, 0.5]}, {"user": "x", "rows": [True, 0.5]}),
    ],
)
def test_arguments_are_masked_by_their_names_as_rendered_fields_are(
    actions: Actions, new_job: NewJob, given: Any, shown: Any
) -> None:
    assert redact(given) == shown  # as Airflow does
    job = new_job(arguments=JsonText(json.dumps(given)))
    assert record(actions, job)["arguments"] == shown
    assert job.send("GET", "/job").fields["arguments"] == given


def test_reports_are_stored_masked_except_for_results(
    database: Database, actions: Actions, job: SignedJob
) -> None:
    said = f"it is {PASSWORD}!"
    assert (
        job.report(
            statusDetails={"message": said, PASSWORD: 1},
            agent={"command": [said]},
            logs=[said, {"message": said, "level": "ERROR", "stream": "stderr"}],
        ).status
        == 200
    )
    job.send_message(Launched({"host": said}))
    answer = job.report(status="ERROR", errorName=PASSWORD, errorMessage=said)
    assert (answer.fields["errorName"], answer.fields["errorMessage"]) == ("***", "it is ***!")
    view = job.send_message(Exit(code=1, message=said, tail=(said,)))
    assert [line.message for line in view.logs] == []
    assert [line.message for line in job.view().logs] == ["it is ***!"] * 2
    assert view.job == '{"host":"it is ***!"}'
    assert not shows_secret(stored(database, job.info.job_id))
    shown = record(actions, job)
    assert shown["statusDetails"] == {"message": "it is ***!", "***": 1}
    assert (shown["agent"], shown["message"]) == ({"command": ["it is ***!"]}, "it is ***!")


def test_messages_of_a_runner_are_masked(database: Database, job: SignedJob) -> None:
    view = job.send_message(Exit(code=1, message=f"no {PASSWORD}", tail=("one", PASSWORD)))
    assert view.error_message == "The job exited with code 1: no ***\none\n***"
    assert not shows_secret(stored(database, job.info.job_id))


def test_a_refused_report_is_stored_masked(database: Database, job: SignedJob) -> None:
    assert job.report(status=PASSWORD, results=PASSWORD).status == 400
    assert job.send("POST", "/status", f"nonsense {PASSWORD}".encode()).status == 400
    kept = stored(database, job.info.job_id)
    assert "nonsense ***" in kept
    assert not shows_secret(kept)


def test_results_are_unmasked_for_the_task_and_masked_for_users(actions: Actions, job: SignedJob) -> None:
    results = {"dsn": f"db://{PASSWORD}", PASSWORD: [PASSWORD]}
    assert job.report(status="SUCCESS", results=results).fields["results"] == results
    assert json.loads(job.view().results or "") == results
    shown = record(actions, job)
    assert shown["results"] == {"dsn": "db://***", "***": ["***"]}
    assert shown["hasResults"]


def test_names_of_a_service_call_are_unmasked_for_the_job_and_masked_for_users(
    actions: Actions, new_job: NewJob
) -> None:
    call = {
        "service_name": f"of {PASSWORD}",
        "method": PASSWORD,
        "arguments": JsonText(json.dumps([PASSWORD])),
    }
    job = new_job(secrets=(PASSWORD,), **call)
    given = job.send("GET", "/job").fields
    assert (given["serviceName"], given["method"], given["arguments"]) == (
        f"of {PASSWORD}",
        PASSWORD,
        [PASSWORD],
    )
    shown = record(actions, job)
    assert (shown["serviceName"], shown["method"], shown["arguments"]) == ("of ***", "***", ["***"])


def test_a_task_that_knows_no_secret_stores_none(database: Database, new_job: NewJob) -> None:
    job = new_job(arguments=JsonText('{"n": 1}'))
    job.report(logs=["plain"])
    with database.engine.connect() as connection:
        columns = action_table.c.arguments, action_table.c.masks, action_table.c.sealed_arguments
        row = connection.execute(select(*columns).where(action_table.c.id == job.info.job_id)).one()
    assert tuple(row) == ('{"n": 1}', None, None)


def test_secrets_that_a_task_learns_later_are_masked_from_then_on(database: Database, job: SignedJob) -> None:
    assert job.send("POST", "/task/secrets", {"secrets": ["learnt later"]}).status == 200
    job.report(logs=[f"learnt later, {PASSWORD}"])
    assert [line.message for line in job.view().logs] == ["***, ***"]
    assert "learnt later" not in stored(database, job.info.job_id)


def test_without_a_key_only_secrets_in_the_arguments_are_stored(
    database: Database, job: SignedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret, "is_encrypting", lambda: False)
    assert job.send("POST", "/task/secrets", {"secrets": ["of nothing it has"]}).status == 200
    with database.engine.connect() as connection:
        query = select(action_table.c.masks).where(action_table.c.id == job.info.job_id)
        assert json.loads(secret.decrypt(connection.execute(query).scalar_one())) == [PASSWORD]


@pytest.mark.parametrize("secrets", ["text", [1], [[]], ["x"] * (MAX_VALUES + 1), {"a": 1}, None])
def test_malformed_secrets_are_refused(job: SignedJob, secrets: object) -> None:
    assert job.send("POST", "/task/secrets", {"secrets": secrets}).error == (400, "malformed")


def test_the_process_that_adopts_a_job_adds_what_it_knows(
    new_task: Callable[..., RunningTask], client: HookClient
) -> None:
    task = new_task()
    registered(task, client, adoptable=True, secrets=(PASSWORD,))
    job = registered(task.next_try(), client, adoptable=True, secrets=("another one",))
    job.report(logs=[f"{PASSWORD}, another one"])
    assert [line.message for line in job.view().logs] == ["***, ***"]


def test_the_xcom_of_a_deferred_task_is_unmasked(database: Database, client: HookClient) -> None:
    with DAG("masking", schedule=None) as dag:
        dag.relative_fileloc = "masking.py"
        BaseOperator(task_id="task")
    store_dag(database.engine, dag)
    task = run_of(database.engine, "masking").first
    job = registered(task, client, adoptable=True, secrets=(PASSWORD,))
    deferral = Deferral(needs_worker=NeedsWorker.ON_FAILURE)
    assert job.send("POST", "/task/defer", deferral.to_json()).status == 200
    task.defer()
    job.report(status="SUCCESS", results={"dsn": PASSWORD})
    job.send_message(Exit(code=0))
    assert task.xcoms() == {"return_value": {"dsn": PASSWORD}}


@pytest.fixture(scope="module")
def site(database: Database) -> Iterator[UserSite]:
    with DAG("masked", schedule=None) as dag:
        dag.relative_fileloc = "masked.py"
        BaseOperator(task_id="load")
    store_dag(database.engine, dag)
    with user_site(database) as site:
        yield site


def test_no_route_of_users_shows_a_secret(site: UserSite) -> None:
    spec: dict[str, Any] = {
        "secrets": (PASSWORD,),
        "arguments": JsonText(json.dumps(ARGUMENTS)),
        "type": "masked",
    }
    with site.job("masked", **spec) as job:
        job.report(status="RUNNING", statusDetails={"progress": 5, "message": PASSWORD}, logs=[PASSWORD])
        job.report(status=PASSWORD)
        upload(job, "orders", b"1", name="orders.csv", metadata={"dsn": PASSWORD})
        job.report(status="ERROR", errorMessage=PASSWORD, results=[PASSWORD])
        job.send_message(Exit(code=1, tail=(PASSWORD,)))
        uuid = job.info.job_id
    shown = {
        path: site.get(f"/actions/{uuid}{path}") for path in ("", "/logs", "/reports", "/changes", "/files")
    }
    assert [path for path, answer in shown.items() if shows_secret(json.dumps(answer))] == []
    assert "***" in json.dumps(shown["/files"])
    assert (shown[""]["arguments"], shown[""]["results"]) == (SHOWN, ["***"])
    listed = site.get("/actions?type=masked")
    assert listed["actions"][0]["errorMessage"] == "***"
    assert not shows_secret(json.dumps(listed))


def test_without_the_key_no_result_is_shown(database: Database, actions: Actions, job: SignedJob) -> None:
    job.report(results=PASSWORD)
    ours = action_table.c.id == job.info.job_id
    with database.engine.begin() as connection:
        connection.execute(update(action_table).where(ours).values(masks="lost"))
    try:
        assert record(actions, job)["results"] == "***"
    finally:
        with database.engine.begin() as connection:
            connection.execute(delete(action_table).where(ours))
