# SPDX-License-Identifier: Apache-2.0
"""Fast reports whose clients leave, whose event loop ends, or whose connection cannot be opened."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import suppress
from typing import Any

import pytest
from airflow import settings as airflow_settings
from sqlalchemy import func, select

from airflow_asyncaction.store.models import report_table
from airflow_asyncaction.web.app import AsgiApp, create_asgi_app
from tests.integration.asgi_client import MOUNT
from tests.integration.databases import Database, on_postgresql
from tests.integration.signed_jobs import SignedJob, new_nonce

pytestmark = [pytest.mark.integration, on_postgresql]


@pytest.fixture
def server() -> str:
    return "mounted"


def scope_of(job: SignedJob, body: bytes, nonce: str) -> dict[str, Any]:
    headers = job.headers("POST", "/status", body, nonce=nonce)
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": f"{MOUNT}/status",
        "raw_path": f"{MOUNT}/status".encode(),
        "root_path": MOUNT,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }


async def asked(app: AsgiApp, job: SignedJob, body: bytes, nonce: str) -> int:
    """Send a report to the app, and return the status of the response."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope_of(job, body, nonce), receive, send)
    return statuses[0]


async def until_connected(app: AsgiApp, job: SignedJob) -> None:
    assert app.fast_reports is not None
    while not app.fast_reports.batches.is_connected:
        assert await asked(app, job, b"", new_nonce()) == 200


def test_a_report_whose_request_is_cancelled_counts_once_when_it_is_resent(
    database: Database, job: SignedJob
) -> None:
    app = create_asgi_app()
    nonces = [new_nonce() for _ in range(40)]

    async def cancel_all() -> None:
        await until_connected(app, job)
        for steps, nonce in enumerate(nonces):
            request = asyncio.create_task(asked(app, job, b'{"logs":["x"]}', nonce))
            for _ in range(steps):
                await asyncio.sleep(0)
            request.cancel()
            with suppress(asyncio.CancelledError):
                await request
            assert await asked(app, job, b'{"logs":["x"]}', nonce) == 200

    asyncio.run(cancel_all())
    for nonce in nonces:
        assert job.report(nonce=nonce, logs=["x"]).error == (409, "nonce_reused")  # another spelling
    query = select(func.count()).where(
        report_table.c.action_id == job.info.job_id, report_table.c.report_key.in_(nonces)
    )
    with database.engine.connect() as connection:
        assert connection.scalar(query) == len(nonces)
    assert sum(line.message == "x" for line in job.view().logs) == len(nonces)


def test_an_app_survives_its_event_loop(job: SignedJob) -> None:
    app = create_asgi_app()
    assert app.fast_reports is not None
    for number in (1, 2):
        asyncio.run(until_connected(app, job))
        written = app.fast_reports.batches.written

        async def report() -> None:
            await until_connected(app, job)
            assert await asked(app, job, b"", new_nonce()) == 200

        asyncio.run(report())
        assert app.fast_reports.batches.written == written + 1, number


@pytest.mark.parametrize("wait_ms", range(0, 60, 4))
def test_an_event_loop_that_ends_while_a_connection_is_opened_leaves_none(
    job: SignedJob, wait_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_asgi_app()

    async def report_and_leave() -> None:
        assert await asked(app, job, b"", new_nonce()) == 200
        await asyncio.sleep(wait_ms / 1000)

    asyncio.run(report_and_leave())
    gc.collect()
    assert "non-checked-in connection" not in caplog.text


def test_a_connection_that_fails_is_logged_once_and_costs_no_report(
    database: Database,
    job: SignedJob,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = database.url.replace("psycopg2", "asyncpg")
    monkeypatch.setattr(airflow_settings, "SQL_ALCHEMY_CONN_ASYNC", f"{url}?sslmode=require")
    app = create_asgi_app()
    assert app.fast_reports is not None

    async def report() -> None:
        while not caplog.records:
            assert await asked(app, job, b"", new_nonce()) == 200
        for _ in range(3):
            assert await asked(app, job, b"", new_nonce()) == 200

    asyncio.run(report())
    assert app.fast_reports.batches.written == 0
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "unexpected keyword argument 'sslmode'). Check [database] sql_alchemy_conn_async" in record.message
