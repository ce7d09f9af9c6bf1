# SPDX-License-Identifier: Apache-2.0
"""ASGI: the types and messages that our apps share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from airflow_asyncaction.protocol.refusals import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def mounted_path(scope: Scope) -> str:
    """Return the path of a request below the mount, decoded."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def serve_other(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a scope other than an HTTP request: there are no WebSockets, and there is nothing to start.

    :raises ValueError: the scope is unknown, for which ASGI wants an exception
    """
    match scope["type"]:
        case "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": ""})  # the server answers 403
        case "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        case other:
            raise ValueError(
                f"The ASGI scope {other!r} is not supported: only http, websocket and lifespan are"
            )


async def send_refusal(refusal: Refusal, send: Send) -> None:
    """Answer a request whose body was not read to its end."""
    await send_json(refusal.status, refusal.fields, {**refusal.headers, "Connection": "close"}, send)


async def send_json(status: int, fields: Mapping[str, Any], headers: Mapping[str, str], send: Send) -> None:
    """Answer a request with a JSON object."""
    body = Refusal.encode(fields)
    common = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
    }
    await send(start_of(status, {**common, **headers}))
    await send({"type": "http.response.body", "body": body})


def start_of(status: int, headers: Mapping[str, str]) -> Message:
    """Return the message that begins an answer."""
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": encoded}
