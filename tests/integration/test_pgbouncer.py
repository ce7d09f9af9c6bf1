# SPDX-License-Identifier: Apache-2.0
"""Batches of reports through pgbouncer, which gives each transaction any of its connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from dev.pgbouncer import pgbouncer
from dev.postgres import Postgres
from tests.integration.databases import Database, on_postgresql
from tests.integration.report_servers import report_servers
from tests.integration.running_tasks import running_task
from tests.integration.signed_jobs import HookClient, SignedJob, registered
from tests.requirements import need

pytestmark = [pytest.mark.integration, on_postgresql]

PID = text("SELECT pg_backend_pid()")
REPORTS = 20


@pytest.fixture
def pooled(database: Database, postgres_server: Postgres) -> Iterator[Engine]:
    """Return an engine that connects to the database through pgbouncer."""
    need("pgbouncer")
    with pgbouncer(postgres_server, database.url.rpartition("/")[2], pool_size=2) as url:
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
        yield engine
        engine.dispose()


def test_reports_are_written_in_batches_whatever_connection_pgbouncer_chooses(
    database: Database, pooled: Engine
) -> None:
    url = pooled.url.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    with pooled.connect() as first, pooled.connect() as second:
        one = first.scalar(PID)  # in a transaction, which occupies one of the two connections
        with report_servers(1, database.url, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC=url) as (server,):
            with HookClient(server.hook) as client:
                job = registered(running_task(database.engine), client)
                send(job, REPORTS)
                assert second.scalar(PID) != one  # the connection that the server has used so far
                first.rollback()
                send(job, REPORTS)
                lines = [line.message for line in job.view().logs]
            assert lines == [str(number) for number in (*range(REPORTS), *range(REPORTS))]
            assert server.count_written() == 2 * REPORTS


def send(job: SignedJob, count: int) -> None:
    for number in range(count):
        assert job.report(logs=[f"{number}"]).status == 200
