# SPDX-License-Identifier: Apache-2.0
"""Serves the WSGI app from ASGI, for small requests: read whole, answered whole, one thread hop each.

An adapter that streams crosses between thread and event loop for every piece; for a report that costs more
than the report itself (``make bench``). It also holds a thread for as long as a client takes to send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from os import SEEK_END
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from a2wsgi.wsgi import build_environ

from airflow_asyncaction.protocol.refusals import Refusal
from airflow_asyncaction.protocol.reports import LARGEST_BODY_BYTES
from airflow_asyncaction.protocol.signing import JOB_ID_HEADER
from airflow_asyncaction.protocol.tasks import TASK_ID_HEADER
from airflow_asyncaction.web.asgi import Receive, Scope, Send, mounted_path, send_refusal
from airflow_asyncaction.web.sender_turns import Exchange, Sender, SenderTurns
from airflow_asyncaction.web.transfer_deadline import TransferDeadline

LOOP = "asyncaction.loop"
"""Key of the WSGI environment under which the server's event loop is."""

_IN_MEMORY_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024
_DISCARD_SECONDS = 20.0
_LENGTH_DIGITS = 18
_AT_ONCE = 2
_NOT_COMPRESSED = (b"content-encoding", b"identity")  # Airflow would hold the answer back to compress it
_PARTS = ("task", "upload", "download")
_SENDERS = {
    **{name.lower().encode(): False for name in (JOB_ID_HEADER, TASK_ID_HEADER)},
    b"authorization": True,
    b"cookie": True,
}
"""Headers that name the sender, and whether that is a user."""

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class _BufferedResponse:
    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def start(self, status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Callable[..., Any]:
        self.status = int(status.split(" ", 1)[0])
        self.headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return self._write

    def _write(self, chunk: bytes) -> None:
        self.body += chunk


class _Unread(Exception):
    """A body did not come."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class BufferedWsgi:
    """A WSGI app as an ASGI app.

    A client that sends or reads slowly holds a connection, and neither a thread nor much memory: a body over
    64 KiB is kept in a temporary file, and an answer is sent in pieces.
    :class:`TransferDeadline` limits the time.

    :param max_body_bytes: a longer body is cut one byte beyond this, or not read at all if its length is
        declared, so that the app refuses it; the rest is discarded once it is answered
    :param threads: how many requests are served at once
    :param patience: how long a client may take, beyond a second for each KiB
    :param turns: lets the requests of one sender wait for each other; ``None``: none waits
    :param name: prefix of the threads' names
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        max_body_bytes: int,
        threads: int,
        patience: timedelta,
        turns: SenderTurns | None = None,
        name: str = "asyncaction-web",
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._patience = patience
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as body:
            is_whole = False
            if not self._is_too_long(scope):
                try:
                    is_whole = await self._read(receive, body)
                except _Unread as error:
                    await send_refusal(error.refusal, send)
                    return
            body.seek(0)
            answer = await self._served(scope, body)
        headers = answer.headers if is_whole else [*answer.headers, _NOT_COMPRESSED]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._give(answer.body, send, is_all=is_whole)
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
        """Read the body, or as much as is needed to refuse it; return whether that is all that was sent.

        :raises _Unread: it did not come
        """
        deadline, more = TransferDeadline(self._patience), True
        while more and body.tell() <= self._max_body_bytes:
            try:
                async with asyncio.timeout(deadline.seconds_to_wait()):
                    message = await receive()
            except TimeoutError:
                raise _Unread(Refusal.too_slow()) from None
            if message["type"] == "http.disconnect":
                raise _Unread(Refusal.incomplete())
            piece = message.get("body", b"")
            deadline.add(len(piece))
            body.write(piece[: self._max_body_bytes + 1 - body.tell()])
            more = message.get("more_body", False)
        return not more

    async def _served(self, scope: Scope, body: IO[bytes]) -> _BufferedResponse:
        loop = asyncio.get_running_loop()
        if self._turns is None:
            return await loop.run_in_executor(self._threads, self._answer, scope, body, loop)
        sender = _sender(scope)
        received_bytes = body.seek(0, SEEK_END)
        body.seek(0)
        async with self._turns.of(sender):
            answer = await loop.run_in_executor(self._threads, self._answer, scope, body, loop)
            exchange = Exchange(
                method=scope["method"],
                status=answer.status,
                received_bytes=received_bytes,
                sent_bytes=len(answer.body),
            )
            self._turns.charge(sender, exchange)
        await self._turns.hold(sender, exchange)
        return answer

    async def _give(self, body: bytes, send: Send, *, is_all: bool) -> None:
        """Send a body: the server takes the next piece only once its buffer has room.

        If the client reads too slowly, the answer is left as it is: the server then closes the connection.

        :param is_all: whether the answer ends with it
        """
        deadline = TransferDeadline(self._patience)
        for start in range(0, max(1, len(body)), _PIECE_BYTES):
            piece = body[start : start + _PIECE_BYTES]
            more = start + _PIECE_BYTES < len(body)
            message = {"type": "http.response.body", "body": piece, "more_body": more or not is_all}
            try:
                async with asyncio.timeout(deadline.seconds_left()):
                    await send(message)
            except TimeoutError:
                return
            deadline.add(len(piece))

    def _answer(self, scope: Any, body: Any, loop: asyncio.AbstractEventLoop) -> _BufferedResponse:
        readable: Any = {**scope, "path": "/", "query_string": b""}
        environ: dict[str, Any] = dict(build_environ(readable, body))
        environ["PATH_INFO"] = mounted_path(scope).encode("utf-8", "replace").decode("latin-1")
        environ["QUERY_STRING"] = scope["query_string"].decode("latin-1")  # may be any bytes
        environ["asgi.scope"] = scope
        environ[LOOP] = loop
        environ["wsgi.input_terminated"] = True  # what came in chunks has no length, and ends all the same
        answer = _BufferedResponse()
        chunks = self._app(environ, answer.start)
        try:
            answer.body += b"".join(chunks)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        return answer


def _sender(scope: Scope) -> Sender:
    """Return who sends a request: an action or task instance, and a part of it, or a user.

    A job's files, which may take long, do not hold up its reports, nor does a job hold up its task.
    """
    headers = dict(scope["headers"])
    found = next((name for name in _SENDERS if name in headers), None)
    if found is None:
        return Sender(b"")
    part = mounted_path(scope).split("/")[1:2]
    suffix = part[0].encode() if part and part[0] in _PARTS else b""
    is_user = _SENDERS[found]
    at_once = _AT_ONCE if is_user or suffix else 1
    return Sender(headers[found].lower() + suffix, is_user=is_user, at_once=at_once)


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
