# SPDX-License-Identifier: Apache-2.0
"""Batches of reports through pgbouncer, which gives each transaction any of its connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, text

from dev.pgbouncer import pgbouncer
from dev.postgres import Postgres
from tests.integration.databases import Database, on_postgresql
from tests.integration.parallel_jobs import lines_of, report_counts
from tests.integration.report_servers import ReportServer, report_servers
from tests.integration.running_tasks import running_task
from tests.integration.signed_jobs import HookClient, SignedJob, registered
from tests.requirements import need

pytestmark = [pytest.mark.integration, on_postgresql]

REPORTS = 50


@pytest.fixture
def pooled(database: Database, postgres_server: Postgres) -> Iterator[str]:
    """Return a URL of the database behind pgbouncer, without a driver."""
    need("pgbouncer")
    with pgbouncer(postgres_server, database.url.rpartition("/")[2]) as url:
        yield url


@pytest.fixture
def server(database: Database, pooled: str) -> Iterator[ReportServer]:
    asynchronous = pooled.replace("postgresql:", "postgresql+asyncpg:")
    with report_servers(1, database.url, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC=asynchronous) as (server,):
        yield server


def test_reports_are_written_in_batches_through_pgbouncer(
    database: Database, server: ReportServer, pooled: str
) -> None:
    others = create_engine(pooled.replace("postgresql:", "postgresql+psycopg2:"), pool_size=4)
    is_over = threading.Event()

    def occupy() -> None:
        """Use pgbouncer's connections in turn, so that they change with each transaction."""
        while not is_over.is_set():
            with others.connect() as connection:
                connection.execute(text("SELECT pg_sleep(0.001)"))

    def send(job: SignedJob) -> None:
        with HookClient(server.hook) as client:
            for number in range(REPORTS):
                assert job.on(client).report(logs=[f"{number}"]).status == 200

    with HookClient(server.hook) as client, ThreadPoolExecutor(8) as threads:
        jobs = [registered(running_task(database.engine), client) for _ in range(4)]
        busy = [threads.submit(occupy) for _ in range(4)]
        try:
            list(threads.map(send, jobs))
        finally:
            is_over.set()
        for each in busy:
            each.result()
        for job in jobs:
            assert lines_of(job.on(client)) == [str(number) for number in range(REPORTS)]
            assert report_counts(database, job) == (REPORTS, REPORTS, REPORTS)
    assert server.count_written() == len(jobs) * REPORTS
    others.dispose()
