# SPDX-License-Identifier: Apache-2.0
"""Reports in batches on a PostgreSQL server of their own: crashes of both servers, and encryption."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, func, select, text

from airflow_asyncaction.store.models import report_table
from dev.postgres import Postgres
from tests.integration.parallel_jobs import lines_of, until_taken
from tests.integration.report_servers import report_servers
from tests.integration.running_tasks import running_task
from tests.integration.signed_jobs import HookClient, new_nonce, registered
from tests.requirements import need
from tests.shared import run_airflow

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def durable() -> Iterator[tuple[Postgres, str]]:
    """Return a server whose commits reach the disk, and the URL of a database with all tables."""
    need("openssl")
    with Postgres(durable=True) as server:
        server.enable_tls()
        url = server.create("airflow")
        run_airflow(url, "db", "migrate")
        yield server, url


def test_an_answered_report_survives_crashes_of_server_and_database(durable: tuple[Postgres, str]) -> None:
    postgres, url = durable
    engine = create_engine(url)
    crash = threading.Event()
    with report_servers(2, url) as servers:
        with HookClient(servers[0].hook) as client:
            jobs = [registered(running_task(engine), client) for _ in range(8)]
        answered: list[list[tuple[str, str]]] = [[] for _ in jobs]

        def send(number: int) -> None:
            with HookClient(servers[number % 2].hook) as client:
                for line in map(str, range(100_000)):
                    nonce = new_nonce()
                    try:
                        answer = jobs[number].on(client).report(nonce=nonce, logs=[line])
                    except (OSError, http.client.HTTPException):
                        return
                    if answer.status != 200:
                        return
                    answered[number].append((nonce, line))
                    if sum(map(len, answered)) >= 400:
                        crash.set()

        with ThreadPoolExecutor(len(jobs)) as threads:
            done = [threads.submit(send, number) for number in range(len(jobs))]
            assert crash.wait(60)
            servers[0].process.kill()
            engine.dispose()
            postgres.crash()
            for each in done:
                each.result()
        with HookClient(servers[1].hook) as client:
            for job, reports in zip(jobs, answered, strict=True):
                its = job.on(client)
                assert reports
                with engine.connect() as connection:
                    keys = select(report_table.c.report_key, func.count()).where(
                        report_table.c.action_id == job.info.job_id
                    )
                    rows = connection.execute(keys.group_by(report_table.c.report_key)).all()
                stored = {row[0]: row[1] for row in rows}
                assert all(stored[nonce] == 1 for nonce, _ in reports)
                lines = lines_of(its)
                assert lines[: len(reports)] == [line for _, line in reports]
                assert len(lines) - len(reports) <= 1  # the one that was not answered any more
                nonce, line = reports[-1]
                assert until_taken(lambda: its.report(nonce=nonce, logs=[line])).status == 200  # noqa: B023
                assert lines_of(its) == lines
    engine.dispose()


def test_reports_are_written_over_encrypted_connections(durable: tuple[Postgres, str]) -> None:
    _, url = durable
    asynchronous = url.replace("psycopg2", "asyncpg") + "?ssl=require"
    encrypted = text(
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        " WHERE ssl AND pid <> pg_backend_pid() AND query LIKE '%unnest%'"
    )
    engine = create_engine(url)
    with report_servers(
        1, f"{url}?sslmode=require", AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC=asynchronous
    ) as (server,):
        with HookClient(server.hook) as client:
            job = registered(running_task(engine), client)
            for _ in range(5):
                assert job.report(status="RUNNING").status == 200
        assert server.count_written() == 5
        with engine.connect() as connection:
            assert connection.scalar(encrypted) == 1
    engine.dispose()
