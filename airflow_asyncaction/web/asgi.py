# SPDX-License-Identifier: Apache-2.0
"""ASGI helpers: types, messages and a deadline for bodies, shared by the apps of this package."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import timedelta
from typing import Any

from airflow_asyncaction.protocol.refusals import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SLOWEST_BYTES_PER_SECOND = 1024


class TransferDeadline:
    """Limits the time that a client may take to send or read a body.

    :param patience: how long the client may take overall, in addition to one second per KiB
    """

    def __init__(self, patience: timedelta) -> None:
        self._patience_seconds = patience.total_seconds()
        self._deadline = time.monotonic() + self._patience_seconds

    def add(self, size_bytes: int) -> None:
        """Extend the deadline: the client has transferred this much."""
        self._deadline += size_bytes / SLOWEST_BYTES_PER_SECOND

    def seconds_left(self) -> float:
        """Return the time left for the rest of the body."""
        return max(0.0, self._deadline - time.monotonic())

    def seconds_to_wait(self) -> float:
        """Return how long to wait for the next data."""
        return min(self.seconds_left(), self._patience_seconds)


def mounted_path(scope: Scope) -> str:
    """Return the decoded path of a request, relative to the mount."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def serve_other(scope: Scope, receive: Receive, send: Send) -> None:
    """Handle a scope other than an HTTP request. WebSockets are refused, and lifespan events do nothing.

    :raises ValueError: the scope is unknown, as ASGI requires
    """
    match scope["type"]:
        case "websocket":
            await send(
                {"type": "websocket.close", "code": 1000, "reason": ""}
            )  # the server responds with 403
        case "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        case other:
            raise ValueError(
                f"Unknown ASGI scope {other!r}. Supported scopes are http, websocket and lifespan"
            )


async def send_refusal(refusal: Refusal, send: Send) -> None:
    """Refuse a request whose body was not read to its end."""
    await send_json(refusal.status, refusal.fields, {**refusal.headers, "Connection": "close"}, send)


async def send_json(status: int, fields: Mapping[str, Any], headers: Mapping[str, str], send: Send) -> None:
    """Send a JSON object."""
    body = Refusal.encode(fields)
    common = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
    }
    await send(response_start(status, {**common, **headers}))
    await send({"type": "http.response.body", "body": body})


def response_start(status: int, headers: Mapping[str, str]) -> Message:
    """Return the message that starts a response."""
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": encoded}
