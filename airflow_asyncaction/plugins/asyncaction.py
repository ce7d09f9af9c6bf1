# SPDX-License-Identifier: Apache-2.0
"""Mounts the job routes in Airflow's API server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_asyncaction import settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class LazyApp:
    """The Flask app as ASGI, built with its first request: only the API server needs it.

    Behind a proxy that strips ``[api] base_url``'s prefix, as well as behind one that keeps it: Airflow's own
    routes take both, but a mounted app's path must have it.
    """

    def __init__(self) -> None:
        self._app: AsgiApp | None = None
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        app = self._app if self._app is not None else await asyncio.to_thread(self._build)
        _strip_prefix(scope)
        await app(scope, receive, send)

    def _build(self) -> AsgiApp:
        from airflow_asyncaction.web.app import create_asgi_app

        with self._lock:
            if self._app is None:
                self._app = create_asgi_app()
            return self._app


class HookRoot:
    """Routes the hook's own URL, which has no slash at its end, to the mounted app.

    A mount takes what is below it only.
    """

    def __init__(self, app: AsgiApp, url: str) -> None:
        self._app = app
        self._url = url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        ours = (self._url, scope.get("root_path", "") + self._url)
        if scope["type"] == "http" and scope["path"] in ours:
            scope = {**scope, "path": scope["path"] + "/"}
        await self._app(scope, receive, send)


def _strip_prefix(scope: Scope) -> None:
    root, path = scope.get("root_path", ""), scope.get("path", "")
    app_root = scope.get("app_root_path", "")
    if root and path != root and not path.startswith(root + "/") and root.startswith(app_root):
        scope["path"] = app_root + path


class AsyncActionPlugin(AirflowPlugin):
    """Found by the entry point ``airflow.plugins``."""

    name = "asyncaction"
    # Mutable, as AirflowPlugin declares them.
    fastapi_apps = [{"app": LazyApp(), "url_prefix": settings.load().url, "name": "asyncaction"}]  # noqa: RUF012
    fastapi_root_middlewares = [  # noqa: RUF012
        {"middleware": HookRoot, "args": [settings.load().url], "name": "asyncaction"}
    ]
