# SPDX-License-Identifier: Apache-2.0
"""Server that counts the requests for actions, and its queries for the versions of the waiting ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, event
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_asyncaction import settings
from airflow_asyncaction.plugins.asyncaction import LazyApp
from airflow_asyncaction.services import open_services
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.web.app import Serving, create_asgi_app
from tests.integration.databases import Database
from tests.integration.servers import served_mounted

PATIENCE_SECONDS = 60.0


def until(is_so: Callable[[], object]) -> None:
    """Wait until a condition is met."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@dataclass
class LongPollServer:
    """A running server.

    :param begun: number of requests for actions
    :param ended: how many of them were answered or abandoned
    :param looks: times of its queries for versions
    :param failure: raised by these queries
    """

    hook: str = ""
    begun: int = 0
    ended: int = 0
    looks: list[float] = field(default_factory=list)
    failure: Exception | None = None

    def wait_for_looks(self, count: int) -> None:
        """Wait for a number of further queries: what was held before the first one has been looked at."""
        seen = len(self.looks)
        until(lambda: len(self.looks) >= seen + count)

    def wait_for_held(self, count: int) -> None:
        """Wait until a number of requests is held."""
        until(lambda: self.begun - self.ended == count)
        self.wait_for_looks(2)
        assert self.begun - self.ended == count


class _Counting(LazyApp):
    def __init__(self, counts: LongPollServer, options: Settings, serving: Serving) -> None:
        super().__init__()
        self._counts, self._options, self._serving = counts, options, serving

    def _build(self) -> ASGIApp:
        return create_asgi_app(open_services(self._options), self._serving)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_counted = scope["path"].endswith("/task/action")
        self._counts.begun += is_counted
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._counts.ended += is_counted


@contextmanager
def long_poll_server(
    database: Database, serving: Serving, options: Settings | None = None
) -> Iterator[LongPollServer]:
    """Serve the routes with uvicorn, as the API server mounts them."""
    options = options or settings.load()
    server = LongPollServer()
    with (
        _looks_counted(database.engine, server),
        served_mounted(_Counting(server, options, serving)) as url,
    ):
        server.hook = url + options.url
        yield server


@contextmanager
def _looks_counted(engine: Engine, server: LongPollServer) -> Iterator[None]:
    def count(_connection: Any, _cursor: Any, _statement: str, *_: Any) -> None:
        if threading.current_thread().name.startswith("asyncaction-long-polls"):
            server.looks.append(time.monotonic())
            if server.failure is not None:
                raise server.failure

    event.listen(engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", count)
