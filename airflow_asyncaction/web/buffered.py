# SPDX-License-Identifier: Apache-2.0
"""Serves the WSGI app from ASGI, for small requests: read whole, answered whole, one thread hop each.

An adapter that streams crosses between thread and event loop for every piece; for a report that costs more
than the report itself (``make bench``). It also holds a thread for as long as a client takes to send.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from a2wsgi.wsgi import build_environ

from airflow_asyncaction.protocol.refusals import Refusal
from airflow_asyncaction.protocol.reports import LARGEST_BODY_BYTES
from airflow_asyncaction.web.asgi import Receive, Scope, Send, mounted_path, send_refusal

LOOP = "asyncaction.loop"
"""Key of the WSGI environment under which the server's event loop is."""

_DISCARD_SECONDS = 20.0
_LENGTH_DIGITS = 18
_NOT_COMPRESSED = (b"content-encoding", b"identity")  # Airflow would hold the answer back to compress it

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class _Answer:
    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def start(self, status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Callable[..., Any]:
        self.status = int(status.split(" ", 1)[0])
        self.headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return self._write

    def _write(self, chunk: bytes) -> None:
        self.body += chunk


async def _discard(receive: Receive) -> None:
    """Read what is left of a body: left unread, it would have the connection reset, and the answer lost."""
    left = LARGEST_BODY_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):  # or the client has gone away
                    return


class BufferedWsgi:
    """A WSGI app as an ASGI app.

    :param max_body_bytes: a longer body is cut one byte beyond this, or not read at all if its length is
        declared, so that the app refuses it; the rest is discarded once it is answered
    :param threads: how many requests are served at once
    :param name: prefix of the threads' names
    """

    def __init__(
        self, app: WsgiApp, *, max_body_bytes: int, threads: int, name: str = "asyncaction-web"
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        body, is_whole = (b"", False) if self._is_too_long(scope) else await self._read(receive)
        if body is None:
            await send_refusal(Refusal.incomplete(), send)
            return
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._threads, self._answer, scope, body, loop)
        headers = answer.headers if is_whole else [*answer.headers, _NOT_COMPRESSED]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": not is_whole})
        if not is_whole:
            await _discard(receive)
            await send({"type": "http.response.body", "body": b""})

    def _is_too_long(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        if b"transfer-encoding" in headers or not declared.isdigit():
            return False
        return len(declared) > _LENGTH_DIGITS or int(declared) > self._max_body_bytes

    async def _read(self, receive: Receive) -> tuple[bytes | None, bool]:
        """Return the body, ``None`` if the client went away, and whether that is all that was sent."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None, True
            body += message.get("body", b"")
            if not message.get("more_body", False):
                return bytes(body), True
            if len(body) > self._max_body_bytes:
                return bytes(body[: self._max_body_bytes + 1]), False

    def _answer(self, scope: Any, body: bytes, loop: asyncio.AbstractEventLoop) -> _Answer:
        unread: Any = io.BytesIO(body)
        readable: Any = {**scope, "path": "/", "query_string": b""}
        environ: dict[str, Any] = dict(build_environ(readable, unread))
        environ["PATH_INFO"] = mounted_path(scope).encode("utf-8", "replace").decode("latin-1")
        environ["QUERY_STRING"] = scope["query_string"].decode("latin-1")  # may be any bytes
        environ["asgi.scope"] = scope
        environ[LOOP] = loop
        environ["wsgi.input_terminated"] = True  # what came in chunks has no length, and ends all the same
        answer = _Answer()
        chunks = self._app(environ, answer.start)
        try:
            answer.body += b"".join(chunks)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        return answer
