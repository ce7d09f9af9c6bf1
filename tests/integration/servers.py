# SPDX-License-Identifier: Apache-2.0
"""The job routes behind real HTTP servers: the Flask app alone, and as Airflow's API server mounts it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from airflow import plugins_manager
from airflow.api_fastapi.app import init_plugins
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from flask import Flask
from starlette.types import ASGIApp
from uuid6 import uuid7
from werkzeug.serving import WSGIRequestHandler, make_server

from airflow_asyncaction import settings
from airflow_asyncaction.plugins.asyncaction import AsyncActionPlugin, LazyApp
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.store.report_batches import ReportBatches
from airflow_asyncaction.web.app import AsgiApp, Serving
from airflow_asyncaction.web.rate_limits import Throttle
from airflow_asyncaction.web.wsgi_adapter import BufferedWsgi
from tests.integration.signed_jobs import HookClient, SignedJob

PREFIX = "/af"
"""Path of ``[api] base_url`` if Airflow is behind a proxy."""


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        """Do not log requests."""


class Prepared(LazyApp):
    """The mounted app with another Flask app."""

    def __init__(self, app: Flask) -> None:
        super().__init__()
        self._flask = app

    def _build(self) -> ASGIApp:
        options = settings.load()
        return BufferedWsgi(
            self._flask,
            max_body_bytes=options.limits.body_bytes,
            threads=4,
            patience=Serving().patience,
            throttle=Throttle(0),
        )


class Uncompleted(LazyApp):
    """The mounted app without its reconciler: tests reconcile expired actions explicitly.

    Its metrics and spans belong to the whole process, in which expired actions of other tests remain.
    """

    def _build(self) -> ASGIApp:
        app = super()._build()
        self.close()
        return app

    @property
    def batches(self) -> ReportBatches | None:
        """Writes ordinary reports, on PostgreSQL."""
        app = self.build()
        assert isinstance(app, AsgiApp)
        return None if app.fast_reports is None else app.fast_reports.batches

    def wait_for_batches(self, hook: str) -> ReportBatches:
        """Wait until ordinary reports are written in batches, which needs a connection to the database."""
        assert self.batches is not None
        stranger = JobInfo(job_id=JobId(str(uuid7())), secret_key="unknown", hook_url=hook)
        with HookClient(hook) as client:
            while not self.batches.is_connected:
                answer = SignedJob.without_task(stranger, client).report()
                assert answer.error == (401, "bad_signature")
        return self.batches


@contextmanager
def served_alone(app: Flask) -> Iterator[str]:
    """Serve the Flask app at the root of werkzeug's threaded server; yield the hook."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def airflow_like(app: LazyApp | None = None, root_path: str = "") -> FastAPI:
    """Return an API server that mounts plugins and responds to unknown paths like Airflow."""
    root = FastAPI(root_path=root_path)
    mounted = AsyncActionPlugin.fastapi_apps[0]
    mounted["app"] = app if app is not None else LazyApp()  # a new one for each database
    if hasattr(plugins_manager.get_fastapi_plugins, "cache_clear"):  # Airflow 3.4 keeps copies
        plugins_manager.get_fastapi_plugins.cache_clear()
    init_plugins(root)

    @root.get("/{rest:path}", include_in_schema=False)
    def page(rest: str) -> HTMLResponse:
        return HTMLResponse(f"<html>Airflow {len(rest)}</html>")

    return root


@contextmanager
def served_mounted(app: LazyApp | None = None, root_path: str = "") -> Iterator[str]:
    """Serve the app with uvicorn, mounted as in the API server. Yield the server's URL without the mount."""
    app = app or Uncompleted()
    config = uvicorn.Config(airflow_like(app, root_path), log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            app.close()
