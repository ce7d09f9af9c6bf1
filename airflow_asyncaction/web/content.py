# SPDX-License-Identifier: Apache-2.0
"""Content app: an ASGI app for ``/content/{token}`` that streams files without a thread per client.

WSGI servers use the same route of the Flask app (``web.routes.files``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from datetime import timedelta
from typing import Any, BinaryIO, TypeVar

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.files.service import FileService
from airflow_asyncaction.files.uploads import IncomingUpload
from airflow_asyncaction.protocol.content_responses import ContentResponse
from airflow_asyncaction.protocol.refusals import Refusal
from airflow_asyncaction.web.asgi import TransferDeadline, json_response, refusal_response
from airflow_asyncaction.web.refusals import to_refusal

log = logging.getLogger(__name__)

T = TypeVar("T")

CONTENT_PATH = "/content/"
CHUNK_BYTES = 256 * 1024
"""Size of a chunk. One is read while another is sent. A client that reads nothing costs three chunks."""

_LOOKUPS_AT_ONCE = 2  # more would starve the event loop
_SIZE_DIGITS = 19  # more digits are too large anyway, and Python parses at most 4300
_METHODS = ("PUT", "GET", "HEAD")


class _Disconnected(Exception):
    """The client closed the connection, or is too slow."""


class ContentApp:
    """Serves ``/content/{token}``.

    :param threads: executor of blocking calls
    :param patience: how long a client may take overall, in addition to one second per KiB
    """

    def __init__(self, files: FileService, *, threads: Executor, patience: timedelta) -> None:
        self._files = files
        self._threads = threads
        self._patience = patience
        self._looking_up = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. The token is removed from the scope, which the access log prints."""
        before, path, token = scope["path"].rpartition(CONTENT_PATH)
        scope["path"] = f"{before}{path}..."
        sender = _TrackingSend(send)
        try:
            if scope["method"] == "PUT":
                await self._put(token, scope, receive, sender)
            elif scope["method"] in _METHODS:
                await self._get(token, scope, receive, sender)
            else:
                await refusal_response(Refusal.method_not_allowed(_METHODS))(scope, receive, sender)
        except _Disconnected:
            if not sender.has_started:
                await refusal_response(Refusal.incomplete())(scope, receive, sender)
        except Exception as error:
            if sender.has_started:
                log.error("A download failed after its response had started: %s", error)
                raise  # closes the connection: nothing else can tell the client
            await refusal_response(to_refusal(error))(scope, receive, sender)

    async def _put(self, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._looking_up:
            receiving = await self._run(self._files.receive, token)
        try:
            declared = dict(scope["headers"]).get(b"content-length", b"0")
            receiving.check_size(int(declared[:_SIZE_DIGITS]) if declared.isdigit() else 0)
            await self._receive(receiving, receive)
            response = await self._run(receiving.finish)
        finally:
            await asyncio.shield(self._run(receiving.close))
        await json_response(200, response, {})(scope, receive, send)

    async def _receive(self, receiving: IncomingUpload, receive: Receive) -> None:
        """Write the body to the file store. While a chunk is written, the next one is received."""
        writing: asyncio.Future[None] | None = None
        deadline = TransferDeadline(self._patience)
        more = True
        try:
            while more:
                chunk, more = await _read_chunk(receive, deadline)
                if writing is not None:
                    await writing
                writing = self._run(receiving.write, chunk)
        finally:
            if writing is not None:
                await writing

    async def _get(self, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._looking_up:
            download, content = await self._run(self._files.open, token)
        disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            answer = ContentResponse.of(download, Headers(scope=scope))
            headers = Response(headers=answer.headers).raw_headers
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            if scope["method"] == "GET":
                await self._send_chunks(read_chunks(answer, content), send, disconnected)
            await send({"type": "http.response.body", "body": b""})
        finally:
            disconnected.cancel()
            await asyncio.shield(self._run(content.close))

    async def _send_chunks(
        self, chunks: Iterator[bytes], send: Send, disconnected: asyncio.Future[None]
    ) -> None:
        """Send a body. While a chunk is sent, the next one is read.

        :param disconnected: done as soon as the client disconnects. Servers accept more chunks even then.
        :raises _Disconnected: the client disconnected, or reads too slowly
        """
        deadline = TransferDeadline(self._patience)
        reading = self._run(next, chunks, b"")
        try:
            while chunk := await reading:
                if disconnected.done():
                    raise _Disconnected
                reading = self._run(next, chunks, b"")
                message = {"type": "http.response.body", "body": chunk, "more_body": True}
                try:
                    await asyncio.wait_for(send(message), deadline.seconds_left())
                except TimeoutError:
                    raise _Disconnected from None
                deadline.add(len(chunk))
        finally:
            await asyncio.wait([reading])  # before the file is closed

    def _run(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


class _TrackingSend:
    """Sends messages, and remembers whether the response has started."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        self.has_started = True
        await self._send(message)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # the unused body of a GET


async def _read_chunk(receive: Receive, deadline: TransferDeadline) -> tuple[bytes, bool]:
    """Return the next data of a body, at least ``CHUNK_BYTES`` unless it ends, and whether more follows."""
    parts: list[bytes] = []
    size, more = 0, True
    while more and size < CHUNK_BYTES:
        try:
            message = await asyncio.wait_for(receive(), deadline.seconds_to_wait())
        except TimeoutError:
            raise FileRefused("The content arrived too slowly. Send it again", code="too_slow") from None
        if message["type"] == "http.disconnect":
            raise _Disconnected
        body = message.get("body", b"")
        parts.append(body)
        size += len(body)
        deadline.add(len(body))
        more = message.get("more_body", False)
    return b"".join(parts), more


def read_chunks(answer: ContentResponse, content: BinaryIO) -> Iterator[bytes]:
    """Yield the body of a response in chunks.

    :raises OSError: the content is shorter than recorded
    """
    if answer.length:
        content.seek(answer.start)
    left = answer.length
    while left > 0:
        chunk = content.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise OSError(f"The content is {left} bytes too short")
        left -= len(chunk)
        yield chunk
