# SPDX-License-Identifier: Apache-2.0
"""The Flask app: served by the API server (``plugins``), or alone by any WSGI server."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable
from typing import Any

from airflow import settings as airflow_settings
from flask import Flask, Response

from airflow_asyncaction import settings as our_settings
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.web.jobs import jobs_blueprint
from airflow_asyncaction.web.refusals import register_error_handlers
from airflow_asyncaction.web.tasks import tasks_blueprint
from airflow_asyncaction.web.wire import end_chunked_input

_WARM_REQUESTS = 50

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def create_app(settings: Settings | None = None) -> Flask:
    """Return the app with all its routes, on Airflow's own database engine.

    :raises TablesMissing: ``airflow db migrate`` was not run since this package was installed
    """
    settings = settings or our_settings.load()
    actions = Actions(airflow_settings.get_engine(), replay_window=2 * settings.max_clock_skew)
    actions.check_tables()
    app = Flask("airflow_asyncaction", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # "//" is not redirected: a signature covers the path
    app.register_blueprint(jobs_blueprint(actions, settings))
    app.register_blueprint(tasks_blueprint(actions, settings))
    register_error_handlers(app)
    app.after_request(_not_for_caches)
    app.wsgi_app = _Wire(app.wsgi_app)  # type: ignore[method-assign]
    return app


def _not_for_caches(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response


class _Wire:
    """Gives chunked bodies an end, whichever WSGI server this runs in."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        end_chunked_input(environ)
        return self._app(environ, start_response)


class FreezeWhenWarm:
    """Takes what a warm API server has loaded out of the garbage collector's sight, once.

    A full collection over Airflow's some 700 000 objects stops all requests for 0.4 s. Routes load lazily:
    hence after the first requests, not at the start.
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
