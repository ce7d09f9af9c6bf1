# SPDX-License-Identifier: Apache-2.0
"""Outages of Airflow's own API: users learn that Airflow failed, not that the database is unavailable."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask, request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp
from werkzeug.test import TestResponse

from airflow_asyncaction.exceptions import StoreUnavailable
from airflow_asyncaction.store.launching import WantedRun
from airflow_asyncaction.web import airflow_api
from airflow_asyncaction.web.refusals import register_error_handlers
from airflow_asyncaction.web.wsgi_adapter import LOOP

RUN = WantedRun(dag_id="orders", run_id="async__1", conf={}, run_after=datetime(2030, 1, 1, tzinfo=UTC))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Return a running event loop, as the API server has one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    for task in asyncio.all_tasks(loop):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    loop.close()


def launch(airflow: ASGIApp, loop: asyncio.AbstractEventLoop) -> TestResponse:
    """Send a request whose route creates a Dag run with Airflow's API."""
    app = Flask(__name__)
    register_error_handlers(app)

    @app.put("/async/orders")
    def create() -> str:
        airflow_api.create_run(request, RUN)
        return "created"

    environ: dict[str, Any] = {LOOP: loop, "asgi.scope": {"app": airflow}}
    return app.test_client().put("/async/orders", environ_overrides=environ)


def test_a_failure_of_airflow_is_named(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    response = launch(JSONResponse({"detail": "No scheduler"}, 503), loop)
    message = "Airflow's API failed (503): No scheduler. Retry later"
    assert (response.status_code, response.json) == (503, {"error": "unavailable", "message": message})
    assert response.headers["Retry-After"] == "2"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        message
    ]


def test_a_timeout_of_airflow_is_named(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(airflow_api, "_TIMEOUT_SECONDS", 0.1)
    response = launch(never, loop)
    message = "Airflow's API did not respond within 0.1 s. Retry later"
    assert (response.status_code, response.json) == (503, {"error": "unavailable", "message": message})


def test_an_outage_of_the_database_is_named(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask(__name__)
    register_error_handlers(app)

    @app.get("/")
    def fail() -> str:
        raise StoreUnavailable from TimeoutError("the host, port and user of the database")

    response = app.test_client().get("/")
    message = "The database is unavailable. Retry later"
    assert (response.status_code, response.json) == (503, {"error": "unavailable", "message": message})
    assert [record.getMessage() for record in caplog.records] == [f"{message} (TimeoutError)"]
