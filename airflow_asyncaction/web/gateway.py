# SPDX-License-Identifier: Apache-2.0
"""Gateway: an ASGI app with the routes that jobs call, in a process that serves nothing else of Airflow.

It is composed like the app of the API server, without the routes of tasks and users. It has no reconciler:
the API servers run it, and it needs more permissions in the database than jobs do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_asyncaction import route_urls, settings
from airflow_asyncaction.exceptions import FileStoreUnavailable, StoreUnavailable, TablesMissing
from airflow_asyncaction.files.stores.base import FileStore, convert_store_errors
from airflow_asyncaction.protocol.refusals import Refusal
from airflow_asyncaction.services import Services, open_services
from airflow_asyncaction.store import metrics
from airflow_asyncaction.web.app import create_asgi_app
from airflow_asyncaction.web.asgi import json_response, refusal_response

log = logging.getLogger(__name__)
access_log = structlog.get_logger(logger_name="http.access")  # the name in Airflow's API server

_OK = "ok"
_READINESS_SECONDS = 1.0
_RETRY_AFTER = {"Retry-After": "2"}


class Gateway:
    """ASGI app of a gateway worker.

    The routes are below ``[asyncaction] url`` and below the path of ``base_url``, so that a proxy may strip
    or keep a prefix. ``/healthz`` responds while the process is alive. ``/readyz`` checks what jobs need.

    A gateway that cannot reach the database starts nevertheless. It refuses requests with 503 until it can.
    """

    def __init__(self) -> None:
        self._startup = Startup()
        self._readiness = Readiness(self._startup)
        base_path = urlsplit(route_urls.configured_hook_url()).path.rstrip("/")
        self._mounts = sorted({settings.load().url, base_path}, key=len, reverse=True)

    def start(self) -> None:
        """Connect to the database in the background. Until then, requests wait."""
        threading.Thread(target=self._start, name="asyncaction-start", daemon=True).start()

    def _start(self) -> None:
        problems = find_problems(self._readiness.check())
        if problems:
            log.warning("The gateway is not ready. %s", " ".join(problems))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        if scope["path"] == "/healthz":
            await json_response(200, {"status": "alive"})(scope, receive, send)
        elif scope["path"] == "/readyz":
            await (await self._readiness.respond())(scope, receive, send)
        else:
            async with _log_request(scope, send) as logged_send:
                await self._serve(scope, receive, logged_send)

    def _mount(self, scope: Scope) -> bool:
        """Set the mount of a request in its own scope, whose final path the access log shows."""
        path = scope["path"]
        for mount in self._mounts:
            if path == mount or path.startswith(f"{mount}/"):
                scope["root_path"] = mount
                scope["path"] = path if path != mount else f"{path}/"
                return True
        return False

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._mount(scope):
            await refusal_response(Refusal.no_such_route())(scope, receive, send)
            return
        try:
            app = self._startup.app or (await asyncio.to_thread(self._startup.complete))[1]
        except Exception as error:  # noqa: BLE001 - a job retries, whatever it is
            message = f"The gateway has not started: {_describe(error)}"
            app = refusal_response(Refusal(503, "unavailable", message, headers=_RETRY_AFTER))
        await app(scope, receive, send)


class Startup:
    """Creates services and app once the database can be reached."""

    def __init__(self) -> None:
        metrics.initialize()
        self._lock = threading.Lock()
        self._services: Services | None = None
        self.app: ASGIApp | None = None

    def complete(self) -> tuple[Services, ASGIApp]:
        """Return services and app. Create them on the first call that succeeds.

        :raises StoreUnavailable: the database does not answer
        :raises TablesMissing: ``airflow db migrate`` has not been run
        """
        with self._lock:
            if self._services is None or self.app is None:
                self._services = open_services()
                self.app = create_asgi_app(self._services, only_jobs=True)
            return self._services, self.app


class Readiness:
    """Responds to ``/readyz``. Probes share one check per second, however many there are."""

    def __init__(self, startup: Startup) -> None:
        self._startup = startup
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._checks: dict[str, str] = {}

    async def respond(self) -> Response:
        """Return 200 if the gateway can serve jobs, and otherwise 503, with the result of each check."""
        async with self._lock:
            if time.monotonic() - self._checked_at >= _READINESS_SECONDS:
                self._checks = await asyncio.to_thread(self.check)
                self._checked_at = time.monotonic()
            checks = self._checks
        problems = find_problems(checks)
        if not problems:
            return json_response(200, {"status": "ready", "checks": checks})
        return refusal_response(
            Refusal(503, "not_ready", " ".join(problems), {"checks": checks}, _RETRY_AFTER)
        )

    def check(self) -> dict[str, str]:
        """Check the database, the tables and the file stores. Return what is wrong with each.

        Object stores are not asked: during an outage of one, jobs can still report.
        """
        checks = {}
        try:
            services, _ = self._startup.complete()
            checks["database"] = checks["tables"] = _OK
            services.database.check_tables()
        except StoreUnavailable as error:
            return {"database": str(error)}
        except TablesMissing as error:
            return {"database": _OK, "tables": str(error)}
        except Exception as error:  # noqa: BLE001 - an invalid configuration, or missing permissions
            return {"start": _describe(error)}
        for store in services.stores:
            checks[f"file store {store.name}"] = _check_store(store)
        return checks


def find_problems(checks: Mapping[str, str]) -> list[str]:
    """Return the results of the checks that failed."""
    return [result for result in checks.values() if result != _OK]


def _check_store(store: FileStore) -> str:
    try:
        with convert_store_errors(store):
            store.check()
    except FileStoreUnavailable as error:
        return str(error)
    return _OK


@asynccontextmanager
async def _log_request(scope: Scope, send: Send) -> AsyncIterator[Send]:
    """Log a request at its end, with the fields of the API server's access log, but without the query."""
    started_ns, status = time.monotonic_ns(), 0

    async def logged_send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        await send(message)

    try:
        yield logged_send
    finally:
        access_log.info(
            "request finished",
            method=scope["method"],
            path=scope["path"],
            status_code=status,
            duration_us=(time.monotonic_ns() - started_ns) // 1000,
            client_addr="{}:{}".format(*scope["client"]) if scope.get("client") else None,
        )


def _describe(error: Exception) -> str:
    """Return a sentence for a client, and log what it must not see."""
    if isinstance(error, StoreUnavailable | TablesMissing):
        return str(error)
    log.error("The gateway could not start", exc_info=error)
    return "Internal server error. See the log of the gateway"
