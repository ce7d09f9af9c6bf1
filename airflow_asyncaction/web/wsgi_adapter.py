# SPDX-License-Identifier: Apache-2.0
"""WSGI adapter: runs the Flask app under ASGI, with bodies buffered and one thread hop per request.

A streaming adapter hops between thread and event loop for every chunk. For a report that costs more than the
report itself (``make bench``), and it occupies a thread for as long as a client takes to send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from tempfile import SpooledTemporaryFile
from typing import IO, Any, NamedTuple

from a2wsgi.wsgi import build_environ
from starlette.types import Receive, Scope, Send
from werkzeug.test import run_wsgi_app

from airflow_asyncaction.protocol.refusals import Refusal
from airflow_asyncaction.protocol.reports import LARGEST_BODY_BYTES
from airflow_asyncaction.protocol.signing import JOB_ID_HEADER
from airflow_asyncaction.protocol.tasks import TASK_ID_HEADER
from airflow_asyncaction.web.asgi import TransferDeadline, mounted_path, refusal_response
from airflow_asyncaction.web.rate_limits import Exchange, Sender, Throttle

LOOP = "asyncaction.loop"
"""Key of the server's event loop in the WSGI environment."""

MAX_SHORTCUT_BYTES = 16 * 1024
"""Larger bodies take a thread: parsing and masking them would delay all other requests by milliseconds."""

_IN_MEMORY_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_DISCARD_SECONDS = 20.0
_LENGTH_DIGITS = 18
_CONCURRENCY = 2
_NOT_COMPRESSED = (b"content-encoding", b"identity")  # otherwise Airflow delays the response to compress it
_ROUTE_GROUPS = ("task", "upload", "download")
_SENDERS = {
    **{name.lower().encode(): False for name in (JOB_ID_HEADER, TASK_ID_HEADER)},
    b"authorization": True,
    b"cookie": True,
}
"""Headers that identify the sender, and whether they identify a user."""

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Shortcut = Callable[[Scope, bytes], Awaitable["BufferedResponse | None"]]
"""Responds to a request with a small body on the event loop; returns ``None`` if the app has to."""


class BufferedResponse(NamedTuple):
    """A whole response.

    :param headers: names in lower case
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class _BodyMissing(Exception):
    """The body of a request did not arrive."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class BufferedWsgi:
    """Serves a WSGI app as an ASGI app.

    A slow client occupies a connection, but no thread. Request bodies over 64 KiB are spooled to a temporary
    file, and responses are sent in chunks. :class:`TransferDeadline` limits how long the client may take.

    :param max_body_bytes: longer bodies are read up to one byte past this limit, or not at all if
        ``Content-Length`` exceeds it. The app then refuses them. The rest is discarded after the response.
    :param threads: maximum number of requests that are served at the same time
    :param patience: how long a client may take overall, in addition to one second per KiB
    :param throttle: limits concurrency and rate of each sender
    :param name: prefix of the thread names
    :param shortcut: is asked before the app, if it takes fewer resources for some requests
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        max_body_bytes: int,
        threads: int,
        patience: timedelta,
        throttle: Throttle,
        name: str = "asyncaction-web",
        shortcut: Shortcut | None = None,
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._patience = patience
        self._throttle = throttle
        self._shortcut = shortcut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as body:
            is_whole = False
            if not self._is_too_long(scope):
                try:
                    is_whole = await self._read(receive, body)
                except _BodyMissing as error:
                    await refusal_response(error.refusal)(scope, receive, send)
                    return
            response = await self._serve(scope, body, is_whole=is_whole)
        headers = response.headers if is_whole else [*response.headers, _NOT_COMPRESSED]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await self._send_body(response.body, send, is_last=is_whole)
        if not is_whole:
            await _discard(receive)
            await send({"type": "http.response.body", "body": b""})

    def _is_too_long(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        if b"transfer-encoding" in headers or not declared.isdigit():
            return False
        return len(declared) > _LENGTH_DIGITS or int(declared) > self._max_body_bytes

    async def _read(self, receive: Receive, body: IO[bytes]) -> bool:
        """Read the body, or as much as is needed to refuse it. Return whether it was read to its end.

        :raises _BodyMissing: the client disconnected or is too slow
        """
        deadline, more = TransferDeadline(self._patience), True
        while more and body.tell() <= self._max_body_bytes:
            try:
                async with asyncio.timeout(deadline.seconds_to_wait()):
                    message = await receive()
            except TimeoutError:
                raise _BodyMissing(Refusal.too_slow()) from None
            if message["type"] == "http.disconnect":
                raise _BodyMissing(Refusal.incomplete())
            chunk = message.get("body", b"")
            deadline.add(len(chunk))
            body.write(chunk[: self._max_body_bytes + 1 - body.tell()])
            more = message.get("more_body", False)
        return not more

    async def _serve(self, scope: Scope, body: IO[bytes], *, is_whole: bool) -> BufferedResponse:
        sender = _identify_sender(scope)
        received_bytes = body.tell()
        body.seek(0)
        async with self._throttle.admit(sender):
            response = None
            if self._shortcut is not None and is_whole and received_bytes <= MAX_SHORTCUT_BYTES:
                response = await self._shortcut(scope, body.read())
                body.seek(0)
            if response is None:
                loop = asyncio.get_running_loop()
                response = await loop.run_in_executor(self._threads, self._call_app, scope, body, loop)
            exchange = Exchange(
                method=scope["method"],
                status=response.status,
                received_bytes=received_bytes,
                sent_bytes=len(response.body),
            )
            self._throttle.charge(sender, exchange)
        await self._throttle.delay_response(sender, exchange)
        return response

    async def _send_body(self, body: bytes, send: Send, *, is_last: bool) -> None:
        """Send a body in chunks. The server accepts the next chunk only when its buffer has room.

        If the client reads too slowly, the response stays incomplete, and the server closes the connection.

        :param is_last: whether the response ends with this body
        """
        deadline = TransferDeadline(self._patience)
        for start in range(0, max(1, len(body)), _CHUNK_BYTES):
            chunk = body[start : start + _CHUNK_BYTES]
            more = start + _CHUNK_BYTES < len(body)
            message = {"type": "http.response.body", "body": chunk, "more_body": more or not is_last}
            try:
                async with asyncio.timeout(deadline.seconds_left()):
                    await send(message)
            except TimeoutError:
                return
            deadline.add(len(chunk))

    def _call_app(self, scope: Any, body: Any, loop: asyncio.AbstractEventLoop) -> BufferedResponse:
        readable: Any = {**scope, "path": "/", "query_string": b""}
        environ: dict[str, Any] = dict(build_environ(readable, body))
        environ["PATH_INFO"] = mounted_path(scope).encode("utf-8", "replace").decode("latin-1")
        environ["QUERY_STRING"] = scope["query_string"].decode("latin-1")  # any bytes are possible
        environ["asgi.scope"] = scope
        environ[LOOP] = loop
        environ["wsgi.input_terminated"] = True  # a chunked body has no declared length
        chunks, status, headers = run_wsgi_app(self._app, environ, buffered=True)
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return BufferedResponse(int(status.split(" ", 1)[0]), encoded, b"".join(chunks))


def _identify_sender(scope: Scope) -> Sender:
    """Return the sender of a request: a user, or an action or task instance, separately per group of routes.

    Slow requests about a job's files do not delay its reports, and requests of a job do not delay its task.
    """
    headers = dict(scope["headers"])
    header = next((name for name in _SENDERS if name in headers), None)
    if header is None:
        return Sender("")
    first = mounted_path(scope).split("/")[1:2]
    group = first[0] if first and first[0] in _ROUTE_GROUPS else ""
    is_user = _SENDERS[header]
    max_concurrency = _CONCURRENCY if is_user or group else 1
    name = headers[header].lower().decode("latin-1") + group
    return Sender(name, is_user=is_user, max_concurrency=max_concurrency)


async def _discard(receive: Receive) -> None:
    """Discard the rest of a body. Unread data would reset the connection, and the response would be lost."""
    left = LARGEST_BODY_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):  # or the client has disconnected
                    return
