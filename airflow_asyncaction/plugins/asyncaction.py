# SPDX-License-Identifier: Apache-2.0
"""Mounts the job routes in Airflow's API server."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from airflow.plugins_manager import AirflowPlugin

from airflow_asyncaction import links, settings
from airflow_asyncaction.json_schema import dialect  # noqa: F401 - Airflow validates Params of operations by it

if TYPE_CHECKING:
    from airflow_asyncaction.web.asgi import AsgiApp, Receive, Scope, Send
    from airflow_asyncaction.web.reconciler import Reconciler

log = logging.getLogger(__name__)


class LazyApp:
    """The Flask app as ASGI, built with its first request: only the API server needs it.

    Behind a proxy that strips ``[api] base_url``'s prefix, as well as behind one that keeps it: Airflow's own
    routes take both, but a mounted app's path must have it.
    """

    def __init__(self) -> None:
        self._app: AsgiApp | None = None
        self._reconciler: Reconciler | None = None
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        app = self._app if self._app is not None else await asyncio.to_thread(self.build)
        _strip_prefix(scope)
        await app(scope, receive, send)

    def build(self) -> AsgiApp:
        """Return the app; the first call builds it."""
        with self._lock:
            if self._app is None:
                self._app = self._build()
            return self._app

    def close(self) -> None:
        """End what has begun with the app."""
        if self._reconciler is not None:
            self._reconciler.stop()

    def _build(self) -> AsgiApp:
        from airflow_asyncaction.services import open_services
        from airflow_asyncaction.web.app import create_asgi_app
        from airflow_asyncaction.web.reconciler import Reconciler

        services = open_services()
        _make_pools()
        self._reconciler = Reconciler(services.actions, reap_after=services.settings.reap_after)
        self._reconciler.start()
        return create_asgi_app(services)


class HookRoot:
    """Routes the hook's own URL, which has no slash at its end, to the mounted app.

    A mount takes what is below it only. The first request to the API server, whatever it is for, has the
    mounted app built: deferred tasks wait for what it does.
    """

    def __init__(self, app: AsgiApp, url: str) -> None:
        self._app = app
        self._url = url
        self._is_first = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if self._is_first and scope["type"] == "http":
            self._is_first = False
            threading.Thread(target=_build_mounted, name="asyncaction-build", daemon=True).start()
        ours = (self._url, scope.get("root_path", "") + self._url)
        if scope["type"] == "http" and scope["path"] in ours:
            scope = {**scope, "path": scope["path"] + "/"}
        await self._app(scope, receive, send)


def _make_pools() -> None:
    """Make the pools that limit how many actions of a runner run at a time."""
    from airflow import settings as airflow_settings

    from airflow_asyncaction.runner_config import routing_pools
    from airflow_asyncaction.store.pools import ensure_pools

    try:
        ensure_pools(airflow_settings.get_engine(), routing_pools())
    except ValueError as error:  # the Dags that need runners say so too; jobs of others go on
        log.error("%s", error)


def _build_mounted() -> None:
    try:
        AsyncActionPlugin.fastapi_apps[0]["app"].build()
    except Exception:  # each request to a job route says so again
        log.exception("The job routes cannot be served")


def _strip_prefix(scope: Scope) -> None:
    root, path = scope.get("root_path", ""), scope.get("path", "")
    app_root = scope.get("app_root_path", "")
    if root and path != root and not path.startswith(root + "/") and root.startswith(app_root):
        scope["path"] = app_root + path


def _views(url: str) -> list[dict[str, str]]:
    """Return where Airflow's UI shows the page: in its navigation, and as a tab.

    Airflow finds a view by its ``url_route`` alone, so that each has its own. It leaves an ``href`` as it is.
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
    """Found by the entry point ``airflow.plugins``."""

    name = "asyncaction"
    # Mutable, as AirflowPlugin declares them.
    fastapi_apps = [{"app": LazyApp(), "url_prefix": settings.load().url, "name": "asyncaction"}]  # noqa: RUF012
    fastapi_root_middlewares = [  # noqa: RUF012
        {"middleware": HookRoot, "args": [settings.load().url], "name": "asyncaction"}
    ]
    external_views = _views(settings.load().url)
