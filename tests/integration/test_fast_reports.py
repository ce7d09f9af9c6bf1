# SPDX-License-Identifier: Apache-2.0
"""Fast reports: ordinary reports are written in batches, all others as before, and both are answered alike.

The tests of reports run with both: ``mounted`` on PostgreSQL writes batches, ``alone`` does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import func, select, text

from airflow_asyncaction import settings
from airflow_asyncaction.protocol.actions import StopReason
from airflow_asyncaction.protocol.lifecycle import Stop
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.services import open_services
from airflow_asyncaction.store.known_actions import MAX_ROW_CHARS
from airflow_asyncaction.store.models import report_table
from airflow_asyncaction.store.report_batches import ReportBatches
from airflow_asyncaction.web.app import Serving
from airflow_asyncaction.web.wsgi_adapter import MAX_SHORTCUT_BYTES
from tests.integration.databases import Database, on_postgresql
from tests.integration.file_servers import Folder, Ready
from tests.integration.running_tasks import running_task
from tests.integration.servers import Uncompleted, served_mounted
from tests.integration.signed_jobs import HookClient, NewJob, SignedJob, new_nonce, registered

pytestmark = [pytest.mark.integration, on_postgresql]

ORDINARY: Mapping[str, Mapping[str, Any]] = {
    "heartbeat": {},
    "status": {"status": "RUNNING"},
    "progress": {"statusDetails": {"progress": 40, "message": "loading"}},
    "number": {"statusDetails": 12.5},
    "lines": {"logs": ["one", {"message": "two", "level": "ERROR", "time": 1, "stream": "stderr"}]},
    "results": {"results": {"rows": [1, None, "é"]}},
    "error": {"errorName": "Partial", "errorMessage": "one\0failed"},
    "agent": {"agent": {"lang": "python", "version": "3.8"}},
}
"""Reports that leave their action running."""


@pytest.fixture
def server() -> str:
    return "mounted"


@pytest.fixture
def batches(mounted: str, mounted_app: Uncompleted) -> ReportBatches:
    """Return the batches of the server, which is connected."""
    return mounted_app.wait_for_batches(mounted)


def stored(database: Database, job: SignedJob) -> list[dict[str, Any]]:
    """Return the job's reports as they are stored, without ids, keys and times."""
    columns = [
        column
        for column in report_table.c
        if column.name not in ("id", "action_id", "report_key", "received_at", "body_sha256")
    ]
    query = select(*columns).where(report_table.c.action_id == job.info.job_id).order_by(report_table.c.id)
    with database.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def report_count(database: Database, job: SignedJob) -> int:
    query = select(func.count()).where(report_table.c.action_id == job.info.job_id)
    with database.engine.connect() as connection:
        return connection.scalar(query) or 0


def action_row(database: Database, job: SignedJob) -> dict[str, Any]:
    """Return the row of a job's action, without what differs between two actions."""
    with database.engine.connect() as connection:
        row = connection.execute(
            text("SELECT * FROM async_action WHERE id = :id"), {"id": job.info.job_id}
        ).one()
    varying = ("id", "ti_id", "run_id", "secret", "task_key", "registration_digest")
    return {
        name: value
        for name, value in row._mapping.items()
        if name not in varying and not name.endswith("_at")
    }


@pytest.mark.parametrize("fields", ORDINARY.values(), ids=ORDINARY)
def test_an_ordinary_report_is_written_and_answered_as_by_flask(
    database: Database, new_job: NewJob, alone: str, batches: ReportBatches, fields: Mapping[str, Any]
) -> None:
    fast, slow = (
        new_job(type="etl", arguments=JsonText('{"n":[1]}')),
        new_job(type="etl", arguments=JsonText('{"n":[1]}')),
    )
    before = batches.written
    answers = [fast.report(**fields), fast.report(**fields)]
    assert batches.written == before + 2
    with HookClient(alone) as client:
        expected = [slow.on(client).report(**fields), slow.on(client).report(**fields)]
    assert batches.written == before + 2
    assert stored(database, fast) == stored(database, slow)
    assert action_row(database, fast) == action_row(database, slow)
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.status == wanted.status == 200
        assert _without_times(answer.fields) == _without_times(wanted.fields)
        assert answer.body.endswith(b"}\n")
        assert set(wanted.headers) - set(answer.headers) <= {"connection"}
        assert answer.headers["cache-control"] == wanted.headers["cache-control"] == "no-store"


def _without_times(fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    varying = ("uuid", "lastJobUpdate", "serverTime")
    return [(name, None if name in varying else value) for name, value in fields.items()]


def test_v1_reports_are_ordinary_until_the_job_uses_v2(job: SignedJob, batches: ReportBatches) -> None:
    before = batches.written
    assert job.send_v1("POST", "/status").status == 200
    assert job.send_v1("POST", "/status", {"status": "RUNNING"}).status == 200
    assert job.report().status == 200
    assert batches.written == before + 3
    assert job.send_v1("POST", "/status").error == (401, "bad_signature")
    assert batches.written == before + 3


@pytest.mark.parametrize("path", ["/status", "", "/"])
def test_each_path_of_reports_is_fast(job: SignedJob, batches: ReportBatches, path: str) -> None:
    before = batches.written
    assert job.send("POST", path, {"status": "RUNNING"}).status == 200
    assert batches.written == before + 1


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"status": "SUCCESS"}, 200),
        ({"status": "ERROR", "errorName": "Boom"}, 200),
        ({"status": "DONE"}, 400),
        ({"logs": ["x"] * 1001}, 413),
        ({"results": "x" * MAX_SHORTCUT_BYTES}, 200),
    ],
)
def test_no_other_report_is_fast(
    job: SignedJob, batches: ReportBatches, fields: dict[str, Any], answer: int
) -> None:
    assert job.report().status == 200
    before = batches.written
    assert job.report(**fields).status == answer
    assert batches.written == before


def test_no_report_after_the_end_is_fast(job: SignedJob, batches: ReportBatches) -> None:
    assert job.report(status="SUCCESS").status == 200
    before = batches.written
    assert job.report(logs=["late"]).fields["status"] == "SUCCESS"
    assert batches.written == before


def test_a_resent_report_is_answered_but_not_written_again(
    database: Database, job: SignedJob, batches: ReportBatches
) -> None:
    nonce = new_nonce()
    assert job.report(nonce=nonce, logs=["once"]).status == 200
    before = batches.written
    assert job.report(nonce=nonce, logs=["once"]).status == 200
    assert job.report(nonce=nonce, logs=["twice"]).error == (409, "nonce_reused")
    assert batches.written == before
    assert [line.message for line in job.view().logs] == ["once"]
    assert job.report(logs=["next"]).status == 200
    assert report_count(database, job) == 3  # the refused one is kept as well


def test_stop_reaches_the_job_with_its_next_report(job: SignedJob) -> None:
    assert job.report().fields["action"] is None
    job.send_message(Stop(StopReason.REQUESTED))
    assert job.report().fields["action"] == "STOP"
    assert job.report().fields["action"] == "STOP"


def test_every_64th_report_is_pruned_with_a_lock(
    database: Database, job: SignedJob, batches: ReportBatches
) -> None:
    before = batches.written
    for _ in range(130):
        assert job.report(status="RUNNING").status == 200
    assert batches.written == before + 128
    assert report_count(database, job) == 130


def test_lines_are_dropped_at_the_same_limit(new_job: NewJob, batches: ReportBatches) -> None:
    job = new_job(max_log_lines=10)
    before = batches.written
    for number in range(10):
        assert job.report(logs=[f"line {number}"]).status == 200
    assert batches.written == before + 10
    assert job.report(logs=["one too many"]).status == 200
    assert batches.written == before + 10
    view = job.view()
    assert (view.first_line, len(view.logs), view.logs[-1].message) == (2, 10, "one too many")


def test_an_action_with_large_arguments_is_not_kept_in_memory(
    new_job: NewJob, batches: ReportBatches
) -> None:
    arguments = JsonText('"' + "x" * MAX_ROW_CHARS + '"')
    job = new_job(arguments=arguments)
    before = batches.written
    assert job.report().fields["arguments"] == "x" * MAX_ROW_CHARS
    assert batches.written == before


def test_a_job_gets_its_arguments_unmasked_and_its_lines_are_masked(
    new_job: NewJob, batches: ReportBatches
) -> None:
    job = new_job(arguments=JsonText('{"password":"hunter22"}'), secrets=["hunter22"])
    before = batches.written
    for _ in range(2):
        answer = job.report(logs=["hunter22", job.info.secret_key], statusDetails={"message": "hunter22"})
        assert answer.fields["arguments"] == {"password": "hunter22"}
    assert batches.written == before + 2
    assert {line.message for line in job.view().logs} == {"***"}
    assert "hunter22" not in str(job.view())


def test_a_locked_action_delays_no_other(database: Database, new_job: NewJob, batches: ReportBatches) -> None:
    locked, free = new_job(), new_job()
    assert locked.report().status == 200
    query = text("SELECT id FROM async_action WHERE id = :id FOR UPDATE")
    with HookClient(locked.client.hook) as client, ThreadPoolExecutor(1) as threads:
        with database.engine.begin() as connection:
            connection.execute(query, {"id": locked.info.job_id})
            waits = threads.submit(locked.on(client).report)
            before = batches.written
            for _ in range(20):
                assert free.report().status == 200
            assert batches.written == before + 20
            assert not waits.done()
        assert waits.result().status == 200


@contextmanager
def batches_of_two_fail(database: Database) -> Iterator[None]:
    """Let PostgreSQL refuse each statement that inserts several reports."""
    with database.engine.begin() as connection:
        connection.execute(
            text("""
            CREATE FUNCTION only_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
              IF (SELECT count(*) FROM added) > 1 THEN RAISE unique_violation; END IF; RETURN NULL;
            END $$;
            CREATE TRIGGER only_one AFTER INSERT ON async_action_report REFERENCING NEW TABLE AS added
              FOR EACH STATEMENT EXECUTE FUNCTION only_one();
            """)
        )
    try:
        yield
    finally:
        with database.engine.begin() as connection:
            connection.execute(text("DROP FUNCTION only_one CASCADE"))


def test_the_reports_of_a_batch_that_fails_are_written_one_by_one(
    database: Database, new_job: NewJob, batches: ReportBatches, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [new_job() for _ in range(8)]

    def send(job: SignedJob) -> None:
        with HookClient(job.client.hook) as client:
            for number in range(10):
                assert job.on(client).report(logs=[f"{number}"]).status == 200

    with batches_of_two_fail(database), ThreadPoolExecutor(len(jobs)) as threads:
        list(threads.map(send, jobs))
    assert "A batch of reports failed (UniqueViolationError)" in caplog.text
    for job in jobs:
        assert [line.message for line in job.view().logs] == [str(number) for number in range(10)]
        assert report_count(database, job) == 10
    before = batches.written
    assert jobs[0].report().status == 200
    assert batches.written == before + 1


# --- limits


def test_the_budget_of_a_job_counts_fast_reports(database: Database, folder: Folder, mounted: str) -> None:
    services = open_services(folder.options(max_requests_per_second=1.0))
    app = Ready(services, Serving())
    with served_mounted(app) as url, HookClient(url + settings.load().url) as client:
        batches = app.wait_for_batches(client.hook)
        with HookClient(mounted) as unlimited:
            job = registered(running_task(database.engine), unlimited)
            accepted = 0
            while (answer := job.on(client).report(logs=["x"])).status == 200:
                accepted += 1
            lines = [line.message for line in job.view().logs]
    assert answer.error == (429, "too_many")
    assert 10 <= accepted <= 15  # the tokens of ten seconds, and those of the seconds that this took
    assert accepted > batches.written > 5
    warnings = [line for line in lines if line != "x"]
    assert [line.partition(".")[0] for line in warnings] == ["The job has used up its request budget"]
    assert len(lines) == accepted + 1
