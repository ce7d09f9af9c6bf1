# SPDX-License-Identifier: Apache-2.0
"""Flask app with all routes: mounted in the API server (``plugins``), or served by any WSGI server."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask import Flask, Request, Response

from airflow_asyncaction import settings as our_settings
from airflow_asyncaction.services import Services, open_services
from airflow_asyncaction.web.asgi import AsgiApp, Receive, Scope, Send, mounted_path, serve_other
from airflow_asyncaction.web.content import ContentApp
from airflow_asyncaction.web.converters import register_converters
from airflow_asyncaction.web.lanes import Lane, Lanes
from airflow_asyncaction.web.rate_limits import Throttle, limit_requests
from airflow_asyncaction.web.raw_request import WireRequest, end_chunked_input, requested_hook_url
from airflow_asyncaction.web.refusals import register_error_handlers
from airflow_asyncaction.web.routes.files import HookUrl, contents_blueprint, files_blueprint
from airflow_asyncaction.web.routes.jobs import jobs_blueprint
from airflow_asyncaction.web.routes.openapi import openapi_blueprint
from airflow_asyncaction.web.routes.page import page_blueprint
from airflow_asyncaction.web.routes.task_files import task_files_blueprint
from airflow_asyncaction.web.routes.tasks import tasks_blueprint
from airflow_asyncaction.web.routes.users import users_blueprint
from airflow_asyncaction.web.wsgi_adapter import BufferedWsgi, WsgiApp

_WARM_REQUESTS = 50


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Threads and timeouts of an API server process.

    Constants rather than options: no measurement has called for other values.

    :param job_threads: threads for requests of jobs and tasks; about as many as Airflow's pool of database
        connections (5) serves at a time, since more of them only wait for one
    :param user_threads: threads for requests of users, who wait for Airflow's own routes and must not occupy
        the threads of jobs
    :param file_threads: threads that read, write and hash the contents of files; at least 2
    :param patience: how long a client may pause while it sends a body or reads a response. Overall, it has
        this time plus one second per KiB
    """

    job_threads: int = 4
    user_threads: int = 4
    file_threads: int = 8
    patience: timedelta = timedelta(seconds=30)


def create_app(services: Services | None = None, *, hook_url: HookUrl | None = None) -> Flask:
    """Return the app with all its routes.

    :param hook_url: returns the URL of these routes; by default the configured one, or that of the request
    :raises TablesMissing: ``airflow db migrate`` has not been run since this package was installed
    """
    services = services or open_services()
    actions, files, settings = services.actions, services.files, services.settings
    hook_url = hook_url or (_configured_hook_url if our_settings.has_hook_url() else requested_hook_url)
    app = Flask("airflow_asyncaction", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.request_class = WireRequest
    register_converters(app)
    app.url_map.merge_slashes = False  # "//" is not redirected: a signature covers the path
    app.register_blueprint(jobs_blueprint(actions, files, settings))
    app.register_blueprint(files_blueprint(files, settings, hook_url))
    app.register_blueprint(contents_blueprint(files))
    app.register_blueprint(tasks_blueprint(actions, settings))
    app.register_blueprint(task_files_blueprint(files, settings, hook_url))
    app.register_blueprint(users_blueprint(actions, files, settings))
    app.register_blueprint(openapi_blueprint())
    app.register_blueprint(page_blueprint())
    register_error_handlers(app)
    limit_requests(app, actions, settings)
    app.after_request(_forbid_caching)
    app.wsgi_app = _ChunkedBodies(app.wsgi_app)  # type: ignore[method-assign]
    return app


def create_asgi_app(services: Services | None = None, serving: Serving | None = None) -> AsgiApp:
    """Return the ASGI app that the API server mounts.

    :param serving: threads and timeouts; tests use others
    :raises TablesMissing: ``airflow db migrate`` has not been run since this package was installed
    """
    services, serving = services or open_services(), serving or Serving()
    settings = services.settings
    app = create_app(services)
    wsgi_app = FreezeAfterWarmUp(app)

    def buffered(lane: Lane, threads: int) -> AsgiApp:
        return BufferedWsgi(
            wsgi_app,
            max_body_bytes=settings.limits.body_bytes,
            threads=threads,
            patience=serving.patience,
            throttle=Throttle(settings.max_requests_per_second),
            name=f"asyncaction-{lane.value}",
        )

    threads = ThreadPoolExecutor(serving.file_threads, thread_name_prefix="asyncaction-files")
    apps: dict[Lane, AsgiApp] = {
        Lane.JOBS: buffered(Lane.JOBS, serving.job_threads),
        Lane.USERS: buffered(Lane.USERS, serving.user_threads),
        Lane.CONTENTS: ContentApp(services.files, threads=threads, patience=serving.patience),
    }
    lanes = Lanes(app.url_map)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await serve_other(scope, receive, send)
            return
        lane = lanes.find(scope["method"], mounted_path(scope))
        await apps[lane](scope, receive, send)

    return serve


def _configured_hook_url(_: Request) -> str:
    return our_settings.configured_hook_url()


def _forbid_caching(response: Response) -> Response:
    response.headers.setdefault("Cache-Control", "no-store")
    return response


class _ChunkedBodies:
    """Makes chunked bodies readable to their end, under any WSGI server."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        end_chunked_input(environ)
        return self._app(environ, start_response)


class FreezeAfterWarmUp:
    """Freezes the objects of a warm API server once, so that the garbage collector ignores them.

    A full collection of Airflow's roughly 700,000 objects stops all requests for 0.4 s. Modules are loaded
    lazily, so objects are frozen after the first 50 requests and not at startup.
    """

    def __init__(self, app: WsgiApp) -> None:
        self._app = app
        self._left = _WARM_REQUESTS
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        if self._left > 0:
            self._count()
        return self._app(environ, start_response)

    def _count(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                gc.collect()
                gc.freeze()
