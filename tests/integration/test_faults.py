# SPDX-License-Identifier: Apache-2.0
"""Faults: database outages, excessive requests and lost keys get clear responses and are recovered from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, delete, text, update

from airflow_asyncaction import settings
from airflow_asyncaction.exceptions import TablesMissing
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.services import open_services
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store import database as store_database
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.testing import JobServer
from airflow_asyncaction.web.app import create_app
from dev.postgres import Postgres
from tests.integration.databases import Database, on_postgresql
from tests.integration.seen_answers import seen
from tests.integration.servers import served_alone
from tests.integration.signed_jobs import HookClient, SignedJob, new_nonce
from tests.shared import WORKER

pytestmark = pytest.mark.integration


@contextmanager
def served_with(job: SignedJob, options: Settings) -> Iterator[SignedJob]:
    """Serve the routes with other settings, and let the job speak to that server."""
    with served_alone(create_app(open_services(options))) as hook, HookClient(hook) as client:
        yield job.on(client)


@on_postgresql
def test_a_database_that_is_away_is_waited_for(job: SignedJob, postgres_server: Postgres) -> None:
    nonce = new_nonce()
    assert job.report(logs=["before"]).status == 200
    with postgres_server.outage(f"airflow_{WORKER}"):
        for answer in (job.report(nonce=nonce, logs=["x"]), job.send("GET", "/job")):
            assert answer.error == (503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0
        assert job.send("GET", "/task/action").error == (503, "unavailable")
    assert job.report(nonce=nonce, logs=["after"]).status == 200
    assert [line.message for line in job.view().logs] == ["before", "after"]


@on_postgresql
def test_the_server_for_tests_is_away_in_the_same_way(job: SignedJob, postgres_server: Postgres) -> None:
    with postgres_server.outage(f"airflow_{WORKER}"):
        away = job.report()
    with JobServer() as double, HookClient(double.hook_url) as client:
        double.pause()
        paused = SignedJob.without_task(double.new_job().info, client).report()
    assert seen(paused) == seen(away)


@on_postgresql
def test_connections_that_the_database_closed_are_replaced(database: Database, job: SignedJob) -> None:
    job.report()
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert job.report(status="SUCCESS").status == 200


@on_postgresql
def test_a_lock_that_is_held_too_long_is_a_reason_to_send_again(database: Database, job: SignedJob) -> None:
    def wait_briefly(engine: Engine, timeout: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(f"ALTER DATABASE airflow_{WORKER} SET lock_timeout = '{timeout}'"))
        engine.dispose()

    wait_briefly(database.engine, "100ms")
    try:
        with database.engine.begin() as connection:
            connection.execute(
                update(action_table).where(action_table.c.id == job.info.job_id).values(job="null")
            )
            assert job.report().error == (503, "unavailable")
    finally:
        wait_briefly(database.engine, "0")
    assert job.report().status == 200


def test_a_database_without_our_tables_is_named_at_the_start(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(TablesMissing, match="airflow db migrate"):
        store_database.Database(engine).check_tables()
    engine.dispose()


def test_a_job_that_reports_too_often_is_slowed_down(job: SignedJob) -> None:
    slow = replace(settings.load(), max_requests_per_second=1.0)
    with served_with(job, slow) as limited:
        statuses = [limited.report().status for _ in range(15)]
        assert statuses[:10] == [200] * 10
        answer = limited.report()
        assert answer.error == (429, "too_many")
        assert int(answer.headers["retry-after"]) > 0
        assert limited.send("GET", "/job").error == (429, "too_many")
        assert limited.view().state is State.RUNNING  # its task has a budget of its own
        time.sleep(1.1)
        assert limited.report(status="SUCCESS").status == 200


def test_what_is_refused_counts_as_well(job: SignedJob) -> None:
    with served_with(job, replace(settings.load(), max_requests_per_second=1.0)) as limited:
        assert [limited.report(status=1).status for _ in range(11)] == [400] * 10 + [429]


def test_a_job_that_sends_too_much_is_slowed_down(job: SignedJob) -> None:
    with served_with(job, replace(settings.load(), max_bytes_per_second=100.0)) as limited:
        assert limited.report(results="x" * 990).status == 200
        assert limited.report(results="x").error == (429, "too_many")
        view = limited.view()
        assert view.state is State.RUNNING
        (line,) = view.logs  # one, though it was refused twice
        assert (line.level, line.stream) == ("WARNING", "server")
        assert "responds with 429" in line.message


def test_who_cannot_sign_uses_up_nobodys_reports(job: SignedJob) -> None:
    slow = replace(settings.load(), max_requests_per_second=1.0)
    with served_with(job, slow) as limited:
        headers = {**limited.headers("POST", "/status", b""), "X-Job-Signature": "v2=" + "0" * 64}
        for _ in range(15):
            assert limited.client.send("POST", "/status", headers=headers).status == 401
        assert limited.report().status == 200


def test_limits_are_those_of_the_configuration(job: SignedJob) -> None:
    options = settings.load()
    small = replace(options.limits, body_bytes=100, report_log_lines=2, line_bytes=60)
    with served_with(job, replace(options, limits=small)) as limited:
        assert limited.send("POST", "/status", b" " * 101).error == (413, "too_large")
        assert limited.report(logs=["", "", ""]).error == (413, "too_large")
        assert limited.report(logs=["x" * 80]).status == 200
        (line,) = limited.view().logs
        assert len(line.message) == 60
        assert line.message.endswith(" [cut: the line has 80 bytes]")


def test_an_unreadable_secret_is_reported(
    database: Database, job: SignedJob, caplog: pytest.LogCaptureFixture
) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            update(action_table).where(action_table.c.id == job.info.job_id).values(secret="gAAAAA")
        )
    answer = job.report()
    with database.engine.begin() as connection:
        connection.execute(delete(action_table).where(action_table.c.id == job.info.job_id))
    assert answer.error == (503, "unavailable")
    assert job.info.secret_key not in answer.body.decode() + caplog.text


def test_what_a_job_says_is_not_logged_when_the_server_fails(
    database: Database, job: SignedJob, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def rename(before: str, after: str) -> None:
        with database.engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))

    rename("async_action_report", "elsewhere")
    try:
        answer = job.report(logs=["a private line"], errorName="a private name")
    finally:
        rename("elsewhere", "async_action_report")
    if database.name == "sqlite":  # to SQLAlchemy, SQLite's missing tables are operational
        assert answer.error == (503, "unavailable")
    else:
        assert answer.error == (500, "internal")
        assert "Request failed" in caplog.text
    printed = capfd.readouterr()
    said = caplog.text + printed.out + printed.err + answer.body.decode()
    assert "private" not in said
    assert job.info.secret_key not in said
    assert job.report(status="SUCCESS").status == 200
