# SPDX-License-Identifier: Apache-2.0
"""``/content/{token}`` as ASGI: contents stream through the event loop, and no thread waits for a client.

The same route of the Flask app (``web/files``) is for WSGI servers; what it answers is made here for both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from datetime import timedelta
from typing import Any, BinaryIO, TypeVar

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.files.receiving import Receiving
from airflow_asyncaction.files.service import FileService
from airflow_asyncaction.protocol.content_responses import ContentResponse
from airflow_asyncaction.protocol.file_rules import attached_response
from airflow_asyncaction.protocol.refusals import Refusal
from airflow_asyncaction.web.asgi import Message, Receive, Scope, Send, send_json, send_refusal, start_of
from airflow_asyncaction.web.refusals import refusal_of
from airflow_asyncaction.web.transfer_deadline import TransferDeadline

log = logging.getLogger(__name__)

T = TypeVar("T")

CONTENT_PATH = "/content/"
CHUNK_BYTES = 256 * 1024
"""Read ahead of what is being sent. A client that reads nothing costs three of them."""

_LOOKUPS_AT_ONCE = 2  # many at the same time would keep the event loop from its turn
_SIZE_DIGITS = 19  # more of them are too large in any case, and Python reads no more than 4300
_METHODS = ("PUT", "GET", "HEAD")


class _ClientGone(Exception):
    """The client has closed the connection."""


class ContentApp:
    """Serves ``/content/{token}``.

    :param threads: for all that blocks
    :param patience: how long a client may take in all, beyond a second for each KiB
    """

    def __init__(self, files: FileService, *, threads: Executor, patience: timedelta) -> None:
        self._files = files
        self._threads = threads
        self._patience = patience
        self._looking_up = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. The token does not stay in the scope: it would be in the access log."""
        before, path, token = scope["path"].rpartition(CONTENT_PATH)
        scope["path"] = f"{before}{path}..."
        answered = _Sending(send)
        try:
            if scope["method"] == "PUT":
                await self._put(token, scope, receive, answered)
            elif scope["method"] in _METHODS:
                await self._get(token, scope, receive, answered)
            else:
                await send_refusal(Refusal.method_not_allowed(_METHODS), answered)
        except _ClientGone:
            if not answered.has_begun:
                await send_refusal(Refusal.incomplete(), answered)
        except Exception as error:
            if answered.has_begun:
                # Servers may log a cause of their own.
                log.error("A content broke off while it was sent: %s", error)
                raise  # the connection is cut: nothing else tells the client
            await send_refusal(refusal_of(error), answered)

    async def _put(self, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._looking_up:
            receiving = await self._run(self._files.receive, token)
        try:
            declared = dict(scope["headers"]).get(b"content-length", b"0")
            receiving.check_size(int(declared[:_SIZE_DIGITS]) if declared.isdigit() else 0)
            await self._take(receiving, receive)
            attached = await self._run(receiving.finish)
        except BaseException:
            await asyncio.shield(self._run(receiving.discard))
            raise
        await send_json(200, attached_response(attached), {}, send)

    async def _take(self, receiving: Receiving, receive: Receive) -> None:
        """Take the body. While a piece is written and digested, the next one comes in."""
        writing: asyncio.Future[None] | None = None
        deadline = TransferDeadline(self._patience)
        more = True
        try:
            while more:
                piece, more = await _read_piece(receive, deadline)
                if writing is not None:
                    await writing
                writing = self._run(receiving.write, piece)
        finally:
            if writing is not None:
                await writing

    async def _get(self, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._looking_up:
            download, content = await self._run(self._files.open, token)
        gone = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            answer = ContentResponse.of(download, headers)
            await send(start_of(answer.status, answer.headers))
            if scope["method"] == "GET":
                await self._give(chunks_of(answer, content), send, gone)
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            await asyncio.shield(self._run(content.close))

    async def _give(self, chunks: Iterator[bytes], send: Send, gone: asyncio.Future[None]) -> None:
        """Send a body. While a piece is sent, the next one is read.

        :param gone: done as soon as the client has gone away: servers go on taking pieces for nobody
        :raises _ClientGone: it has gone away, or is too slow
        """
        deadline = TransferDeadline(self._patience)
        reading = self._run(next, chunks, b"")
        try:
            while chunk := await reading:
                if gone.done():
                    raise _ClientGone
                reading = self._run(next, chunks, b"")
                message = {"type": "http.response.body", "body": chunk, "more_body": True}
                try:
                    await asyncio.wait_for(send(message), deadline.seconds_left())
                except TimeoutError:
                    raise _ClientGone from None
                deadline.add(len(chunk))
        finally:
            await asyncio.wait([reading])  # before the file is closed

    def _run(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


class _Sending:
    """Sends, and knows whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # a body, which a GET need not have


async def _read_piece(receive: Receive, deadline: TransferDeadline) -> tuple[bytes, bool]:
    """Return the next piece of a body, at least a chunk if there is so much, and whether more follows."""
    parts: list[bytes] = []
    size, more = 0, True
    while more and size < CHUNK_BYTES:
        try:
            message = await asyncio.wait_for(receive(), deadline.seconds_to_wait())
        except TimeoutError:
            raise FileRefused("The content comes too slowly: send it again", code="too_slow") from None
        if message["type"] == "http.disconnect":
            raise _ClientGone
        body = message.get("body", b"")
        parts.append(body)
        size += len(body)
        deadline.add(len(body))
        more = message.get("more_body", False)
    return b"".join(parts), more


def chunks_of(answer: ContentResponse, content: BinaryIO) -> Iterator[bytes]:
    """Yield the body of an answer in chunks.

    :raises OSError: the content is shorter than announced
    """
    if answer.length:
        content.seek(answer.start)
    left = answer.length
    while left > 0:
        chunk = content.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise OSError(f"The content ends {left} bytes too early")
        left -= len(chunk)
        yield chunk
