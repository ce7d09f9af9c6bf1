# SPDX-License-Identifier: Apache-2.0
"""Flask app with all routes: mounted in the API server (``plugins``), or served by any WSGI server."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from itertools import count

from flask import Flask, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import BaseConverter, Map

from airflow_asyncaction import route_urls
from airflow_asyncaction.protocol.files import MAX_INDEX
from airflow_asyncaction.services import Services, open_services
from airflow_asyncaction.store.report_batches import open_batches
from airflow_asyncaction.web.asgi import mounted_path
from airflow_asyncaction.web.content import ContentApp
from airflow_asyncaction.web.fast_reports import FastReports
from airflow_asyncaction.web.long_polls import LongPollLimits, LongPolls
from airflow_asyncaction.web.rate_limits import Budgets, Throttle, limit_requests
from airflow_asyncaction.web.raw_request import WireRequest, requested_hook_url
from airflow_asyncaction.web.refusals import register_error_handlers
from airflow_asyncaction.web.routes.files import (
    HookUrl,
    contents_blueprint,
    files_blueprint,
    task_files_blueprint,
)
from airflow_asyncaction.web.routes.jobs import jobs_blueprint
from airflow_asyncaction.web.wsgi_adapter import BufferedWsgi, Shortcut

_WARM_REQUESTS = 50


class Lane(Enum):
    """Groups of routes. Users may wait for Airflow, and contents for slow clients, without delaying jobs."""

    JOBS = "jobs"  # signed by a job or its task
    CONTENTS = "contents"  # streamed on the event loop
    USERS = "users"  # people and services, and unknown routes


_LANES = {
    "jobs": Lane.JOBS,
    "files": Lane.JOBS,
    "tasks": Lane.JOBS,
    "task_files": Lane.JOBS,
    "contents": Lane.CONTENTS,
    "users": Lane.USERS,
    "openapi": Lane.USERS,
    "page": Lane.USERS,
}
"""Lane of each blueprint."""


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
    :param long_polls: limits of the requests that wait for a change of their action
    """

    job_threads: int = 4
    user_threads: int = 4
    file_threads: int = 8
    patience: timedelta = timedelta(seconds=30)
    long_polls: LongPollLimits = field(default_factory=LongPollLimits)


def create_app(
    services: Services | None = None,
    *,
    hook_url: HookUrl | None = None,
    only_jobs: bool = False,
    budgets: Budgets | None = None,
) -> Flask:
    """Return the app with all its routes.

    :param hook_url: returns the URL of these routes; by default the configured ones, or that of the request
    :param only_jobs: whether to leave out all routes that jobs do not call, as the gateway does
    :param budgets: budgets of jobs and tasks, if requests outside the app count against them as well
    :raises TablesMissing: ``airflow db migrate`` has not been run since this package was installed
    """
    services = services or open_services()
    actions, files, settings = services.actions, services.files, services.settings
    urls = (hook_url, hook_url) if hook_url is not None else _configured_urls()
    app = Flask("airflow_asyncaction", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.request_class = WireRequest
    app.url_map.converters |= {"operation": _OperationIdConverter, "index": _IndexConverter}
    app.url_map.merge_slashes = False  # "//" is not redirected: a signature covers the path
    app.register_blueprint(jobs_blueprint(actions, files, settings))
    app.register_blueprint(files_blueprint(files, settings, urls[0]))
    app.register_blueprint(contents_blueprint(files))
    if not only_jobs:
        _register_other_routes(app, services, urls[1])
    register_error_handlers(app)
    limit_requests(app, actions, budgets or Budgets(settings))
    app.after_request(_forbid_caching)
    return app


def _configured_urls() -> tuple[HookUrl, HookUrl]:
    """Return the URL of these routes for jobs, and that for tasks."""
    if not route_urls.has_hook_url():
        return requested_hook_url, requested_hook_url
    return lambda _: route_urls.configured_hook_url(), lambda _: route_urls.configured_task_url()


def _register_other_routes(app: Flask, services: Services, task_url: HookUrl) -> None:
    """Register the routes of tasks and users. The gateway does without these imports."""
    from airflow_asyncaction.web.routes.openapi import openapi_blueprint
    from airflow_asyncaction.web.routes.page import page_blueprint
    from airflow_asyncaction.web.routes.tasks import tasks_blueprint
    from airflow_asyncaction.web.routes.users import users_blueprint

    actions, files, settings = services.actions, services.files, services.settings
    app.register_blueprint(tasks_blueprint(actions, settings))
    app.register_blueprint(task_files_blueprint(files, settings, task_url))
    app.register_blueprint(users_blueprint(actions, files, settings))
    app.register_blueprint(openapi_blueprint())
    app.register_blueprint(page_blueprint())


class AsgiApp:
    """ASGI app with all routes, as the API server mounts it.

    :param only_jobs: see :func:`create_app`
    :ivar fast_reports: responds to ordinary reports on the event loop; ``None`` if the database is not
        PostgreSQL
    """

    def __init__(self, services: Services, serving: Serving, *, only_jobs: bool = False) -> None:
        settings, budgets = services.settings, Budgets(services.settings)
        app = create_app(services, only_jobs=only_jobs, budgets=budgets)
        batches = open_batches(max_log_bytes=settings.limits.max_log_bytes)
        self.fast_reports = None if batches is None else FastReports(batches, settings, budgets)

        def buffered(lane: Lane, threads: int, shortcut: Shortcut | None = None) -> ASGIApp:
            return BufferedWsgi(
                app,
                max_body_bytes=settings.limits.body_bytes,
                threads=threads,
                patience=serving.patience,
                throttle=Throttle(settings.max_requests_per_second),
                name=f"asyncaction-{lane.value}",
                shortcut=shortcut,
            )

        shortcut = None if self.fast_reports is None else self.fast_reports.respond
        threads = ThreadPoolExecutor(serving.file_threads, thread_name_prefix="asyncaction-files")
        jobs = buffered(Lane.JOBS, serving.job_threads, shortcut)
        self._apps: dict[Lane, ASGIApp] = {
            Lane.JOBS: jobs
            if only_jobs
            else LongPolls(jobs, services.database, settings, serving.long_polls),
            Lane.USERS: buffered(Lane.USERS, serving.user_threads),
            Lane.CONTENTS: ContentApp(services.files, threads=threads, patience=serving.patience),
        }
        self._lanes, self._requests = Lanes(app.url_map), count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        match scope["type"]:
            case "http":
                if next(self._requests) == _WARM_REQUESTS:
                    _freeze_objects()
                lane = self._lanes.find(scope["method"], mounted_path(scope))
                await self._apps[lane](scope, receive, send)
            case "websocket":
                await WebSocketClose()(scope, receive, send)  # the server responds with 403
            case other:
                raise ValueError(f"ASGI scope {other!r} is not supported: send http requests only")


def create_asgi_app(
    services: Services | None = None, serving: Serving | None = None, *, only_jobs: bool = False
) -> AsgiApp:
    """Return the ASGI app that the API server mounts.

    :param serving: threads and timeouts; tests use others
    :param only_jobs: see :func:`create_app`
    :raises TablesMissing: ``airflow db migrate`` has not been run since this package was installed
    """
    return AsgiApp(services or open_services(), serving or Serving(), only_jobs=only_jobs)


def _forbid_caching(response: Response) -> Response:
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def _freeze_objects() -> None:
    """Freeze the objects of a warm API server, so that the garbage collector ignores them.

    A full collection of Airflow's roughly 700,000 objects stops all requests for 0.4 s. Modules are loaded
    lazily, so objects are frozen after the first requests and not at startup.
    """
    gc.collect()
    gc.freeze()


class Lanes:
    """Finds the lane of a request with Flask's own routing, so that both agree for every spelling of a path.

    :param url_map: complete routing table of the Flask app
    :raises LookupError: the blueprint of a route has no lane
    """

    def __init__(self, url_map: Map) -> None:
        self._lane_of = {rule.endpoint: _lane(rule.endpoint) for rule in url_map.iter_rules()}
        self._adapter = url_map.bind("")

    def find(self, method: str, path: str) -> Lane:
        """Return the lane of a request.

        :param path: decoded and relative to the mount, like WSGI's ``PATH_INFO`` as text
        """
        try:
            return self._match(method, path)
        except MethodNotAllowed as error:
            lanes = {self._match(allowed, path) for allowed in error.valid_methods or ()}
            # Only the contents lane keeps tokens out of the access log.
            return Lane.CONTENTS if Lane.CONTENTS in lanes else Lane.USERS
        except HTTPException:
            return Lane.USERS

    def _match(self, method: str, path: str) -> Lane:
        endpoint, _ = self._adapter.match(path, method)
        return self._lane_of[endpoint]


def _lane(endpoint: str) -> Lane:
    blueprint, _, name = endpoint.rpartition(".")
    if blueprint not in _LANES:
        raise LookupError(f"The route {name!r} of blueprint {blueprint!r} has no lane: add it to _LANES")
    return _LANES[blueprint]


class _OperationIdConverter(BaseConverter):
    """Matches an operation's id: any Dag id, except the names of the job routes."""

    regex = r"(?!(?:status|job)$)[.~-]*\w[\w.~-]*"  # unambiguous, so hostile paths cannot cause backtracking


class _IndexConverter(BaseConverter):
    """Matches a file's index. Werkzeug's ``int`` raises ValueError for more digits than Python converts."""

    regex = rf"[0-9]{{1,{len(str(MAX_INDEX))}}}"

    def to_python(self, value: str) -> int:
        """Return the index."""
        return int(value)

    def to_url(self, value: int) -> str:
        """Return the index as a path segment."""
        return str(value)
