# SPDX-License-Identifier: Apache-2.0
"""Airflow plugin: mounts the app with all its routes in the API server, and adds views to Airflow's UI."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from airflow.plugins_manager import AirflowPlugin

from airflow_asyncaction import links, settings
from airflow_asyncaction.json_schema import dialect  # noqa: F401 - registers the dialect that Params use

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from airflow_asyncaction.web.reconciler import Reconciler

log = logging.getLogger(__name__)


class LazyApp:
    """ASGI app that builds the Flask app on its first request: only the API server needs it.

    Works behind proxies that strip the path of ``[api] base_url`` and behind proxies that keep it. Airflow's
    own routes accept both, but a mounted app's path must contain it.
    """

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._reconciler: Reconciler | None = None
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        app = self._app if self._app is not None else await asyncio.to_thread(self.build)
        _strip_prefix(scope)
        await app(scope, receive, send)

    def build(self) -> ASGIApp:
        """Return the app. Build it on the first call."""
        with self._lock:
            if self._app is None:
                self._app = self._build()
            return self._app

    def close(self) -> None:
        """Stop the threads that were started with the app."""
        if self._reconciler is not None:
            self._reconciler.stop()

    def _build(self) -> ASGIApp:
        from airflow_asyncaction.airflow_internals import compatibility
        from airflow_asyncaction.web.unsupported import UnsupportedAirflow

        if missing := compatibility.find_missing():
            message = compatibility.describe(missing)
            log.error(
                "%s Until then, tasks that use its operators fail, and running jobs cannot report.", message
            )
            return UnsupportedAirflow(message)
        return self._build_supported()

    def _build_supported(self) -> ASGIApp:
        from airflow_asyncaction.services import open_services
        from airflow_asyncaction.web.app import create_asgi_app
        from airflow_asyncaction.web.reconciler import Reconciler

        services = open_services()
        _make_pools()
        self._reconciler = Reconciler(services.actions, reap_after=services.settings.reap_after)
        self._reconciler.start()
        return create_asgi_app(services)


class MountRoot:
    """Middleware that routes the URL of the mount itself, without a trailing slash, to the mounted app.

    A mount only matches paths below it. The first request to the API server, whatever its path, builds the
    mounted app: the app's reconciler must run for deferred tasks, even if no job reports.
    """

    def __init__(self, app: ASGIApp, url: str) -> None:
        self._app = app
        self._url = url
        self._is_first = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request."""
        if self._is_first and scope["type"] == "http":
            self._is_first = False
            threading.Thread(target=_build_mounted, name="asyncaction-build", daemon=True).start()
        ours = (self._url, scope.get("root_path", "") + self._url)
        if scope["type"] == "http" and scope["path"] in ours:
            scope = {**scope, "path": scope["path"] + "/"}
        await self._app(scope, receive, send)


def _make_pools() -> None:
    """Create the pools that limit how many actions of a runner run at a time."""
    from airflow_asyncaction.airflow_internals.server import database
    from airflow_asyncaction.runner_config import routing_pools
    from airflow_asyncaction.store.pools import ensure_pools

    try:
        ensure_pools(database.engine(), routing_pools())
    except ValueError as error:  # Dags that use runners report it as well; other Dags are not affected
        log.error("%s", error)


def _build_mounted() -> None:
    try:
        AsyncActionPlugin.fastapi_apps[0]["app"].build()
    except Exception:  # each request to the app retries, and logs it again
        log.exception("Could not start the app of airflow-asyncaction, so jobs cannot report")


def _strip_prefix(scope: Scope) -> None:
    root, path = scope.get("root_path", ""), scope.get("path", "")
    app_root = scope.get("app_root_path", "")
    if root and path != root and not path.startswith(root + "/") and root.startswith(app_root):
        scope["path"] = app_root + path


def _views(url: str) -> list[dict[str, str]]:
    """Return the views of the page in Airflow's UI: an entry in the navigation, and three tabs.

    Airflow identifies a view by its ``url_route`` only, so each has its own. It does not add the path of
    ``[api] base_url`` to an ``href``.
    """
    page, run = f"{links.airflow_root()}{url}/ui", "{DAG_ID}/{RUN_ID}"
    tabs = {
        "dag": ("async_actions_of_dag", f"{page}/dag/{{DAG_ID}}"),
        "dag_run": ("async_actions_of_run", f"{page}/run/{run}"),
        "task_instance": (links.TAB, f"{page}/task/{run}/{{TASK_ID}}/{{MAP_INDEX}}"),
    }
    nav = {"name": "Async actions", "href": f"{page}/", "destination": "nav", "url_route": "async_actions"}
    return [
        {**nav, "category": "browse"},
        *(
            {"name": "Async actions", "href": href, "destination": where, "url_route": route}
            for where, (route, href) in tabs.items()
        ),
    ]


class AsyncActionPlugin(AirflowPlugin):
    """Airflow plugin, registered by the entry point ``airflow.plugins``."""

    name = "asyncaction"
    # Mutable, as AirflowPlugin declares them.
    fastapi_apps = [{"app": LazyApp(), "url_prefix": settings.load().url, "name": "asyncaction"}]  # noqa: RUF012
    fastapi_root_middlewares = [  # noqa: RUF012
        {"middleware": MountRoot, "args": [settings.load().url], "name": "asyncaction"}
    ]
    external_views = _views(settings.load().url)
