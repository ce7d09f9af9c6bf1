# SPDX-License-Identifier: Apache-2.0
"""HTTP layer of :class:`~airflow_asyncaction.testing.JobServer`: connections, bodies and simulated faults."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.protocol.content_responses import ContentResponse
from airflow_asyncaction.protocol.file_rules import check_content_size
from airflow_asyncaction.protocol.refusals import Refusal
from airflow_asyncaction.testing.files import StoredFile

CONTENT_METHODS = ("PUT", "GET", "HEAD")

_CHUNK_BYTES = 64 * 1024
_DISCARD_SECONDS = 5.0


@dataclass(frozen=True)
class HttpRequest:
    """Request to a signed route.

    :param target: path and query as sent
    :param headers: headers with names in lower case
    :param body: ``None`` if the body is too large
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None


@dataclass(frozen=True)
class HttpResponse:
    """Response: a JSON object, or an HTML page."""

    status: int
    fields: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    page: str | None = None

    @classmethod
    def of(cls, refusal: Refusal) -> HttpResponse:
        """Return the response for a refusal."""
        return cls(refusal.status, refusal.fields, refusal.headers)


def failure(status: int, code: str, page: str | None = None) -> HttpResponse | None:
    """Return an error response for a test; ``None`` for status 0, which closes the connection."""
    if status == 0:
        return None
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    return HttpResponse(status, {"error": code, "message": "Requested by the test"}, headers, page)


@dataclass
class Fault:
    """Response to the next requests, even if they are valid."""

    response: HttpResponse | None
    count: int
    containing: bytes

    def hits(self, request: HttpRequest) -> bool:
        """Return whether this fault applies to a request, and count it."""
        if self.count < 1 or self.containing not in (request.body or b""):
            return False
        self.count -= 1
        return True


@dataclass
class TransferFaults:
    """Faults of content transfers.

    :param cuts: number of bytes after which each of the next connections is closed
    :param refusals: responses to the next requests; ``None`` closes the connection
    """

    cuts: list[int] = field(default_factory=list)
    refusals: list[HttpResponse | None] = field(default_factory=list)
    bytes_per_second: int | None = None


@dataclass(frozen=True, kw_only=True)
class Application:
    """Callbacks of the HTTP layer.

    :param respond: serves a request to a signed route; returns ``None`` to close the connection
    :param max_body_bytes: returns the maximum size of such a request's body
    :param content_token: returns the token in the path of a content URL; ``None`` for other paths
    :param max_content_bytes: returns the maximum size of the content for a token
    :param store_content: stores content, and returns the fields of the response
    :param find_file: returns the file for a token
    """

    now: Callable[[], datetime]
    respond: Callable[[HttpRequest], HttpResponse | None]
    max_body_bytes: Callable[[], int]
    content_token: Callable[[str], str | None]
    max_content_bytes: Callable[[str], int]
    store_content: Callable[[str, bytes], Mapping[str, Any]]
    find_file: Callable[[str], StoredFile]
    transfer_faults: TransferFaults = field(default_factory=TransferFaults)


class Listener(ThreadingHTTPServer):
    """Serves an application in threads on a port of 127.0.0.1 until :meth:`go_away`."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, application: Application, port: int, tls: ssl.SSLContext | None) -> None:
        self.application = application
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, and track it."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Stop tracking a connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log errors: tests use clients that disconnect during a request."""

    def go_away(self) -> None:
        """Close the port and all connections."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _BadRequest(Exception):
    """The framing of the body is invalid."""


class _Cut(Exception):
    """The connection is closed in the middle of a body."""


class _Handler(BaseHTTPRequestHandler):
    server: Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_request(self) -> None:
        """Serve one request."""
        application = self.server.application
        token = application.content_token(self.path.partition("?")[0])
        try:
            if token is not None:
                _ContentExchange(application, self, token).run()
                return
            body = self._read_body(application.max_body_bytes())
        except _BadRequest as error:
            self.close_connection = True
            self.send(HttpResponse.of(Refusal(400, "bad_request", str(error))))
            return
        except _Cut:
            self.close_connection = True
            return
        headers = {name.lower(): ",".join(self.headers.get_all(name, [])) for name in self.headers}
        response = application.respond(HttpRequest(self.command, self.path, headers, body))
        if response is None:
            self.close_connection = True
        else:
            self.send(response)

    # Names that http.server expects.
    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815
    do_DELETE = do_OPTIONS = do_PATCH = handle_request  # noqa: N815

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the time of the server's clock, not of the machine's."""
        return format_datetime(self.server.application.now(), usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Do not log requests."""

    def send(self, response: HttpResponse) -> None:
        """Send a response."""
        is_page = response.page is not None
        body = (response.page or "" if is_page else json.dumps(response.fields)).encode()
        kind = "text/html" if is_page else "application/json"
        headers = {"Content-Type": kind, "Cache-Control": "no-store", **response.headers}
        if self.close_connection:
            headers["Connection"] = "close"
        self.send_head(response.status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def declared_bytes(self) -> int | None:
        """Return the declared length of the body; ``None`` if it is chunked.

        :raises _BadRequest: the length is invalid
        """
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            return None
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit():
            raise _BadRequest("Content-Length is not a number")
        return int(length)

    def pieces(self, next_bytes: Callable[[int], int]) -> Iterator[bytes]:
        """Yield the body while it arrives.

        :param next_bytes: gets the number of remaining bytes, and returns how many to read; 0 stops
        :raises _Cut: the body ends too early, or ``next_bytes`` returned 0
        """
        left = self.declared_bytes()
        while left is None or left > 0:
            size = left if left is not None else self._next_chunk()
            if left is None and size == 0:
                self.rfile.readline()
                return
            while size > 0:
                wanted = next_bytes(size)
                piece = self.rfile.read(wanted) if wanted else b""
                if not piece:
                    raise _Cut
                size -= len(piece)
                yield piece
            if left is not None:
                return
            self.rfile.readline()

    def _next_chunk(self) -> int:
        line = self.rfile.readline(100).partition(b";")[0].strip()
        try:
            return int(line, 16)
        except ValueError:
            raise _BadRequest("A chunk has an invalid size") from None

    def _read_body(self, max_bytes: int) -> bytes | None:
        """Return the body; ``None`` if it is too large. Unread data would reset the connection."""
        body, size = bytearray(), 0
        deadline = time.monotonic() + _DISCARD_SECONDS
        for piece in self.pieces(lambda left: min(left, _CHUNK_BYTES)):
            size += len(piece)
            if size <= max_bytes:
                body += piece
            elif time.monotonic() > deadline:
                break
        if size <= max_bytes:
            return bytes(body)
        self.close_connection = True
        return None


class _ContentExchange:
    """One request to a content URL, with delays and faults."""

    def __init__(self, application: Application, handler: _Handler, token: str) -> None:
        self._application = application
        self._handler = handler
        self._token = token
        self._faults = application.transfer_faults
        self._cut_at = self._faults.cuts.pop(0) if self._faults.cuts else None
        self._moved = 0

    def run(self) -> None:
        """Serve the request."""
        try:
            self._run()
        except FileRefused as error:
            self._refuse(Refusal.of_file(error))
        except _Cut:
            self._handler.close_connection = True
            self._handler.connection.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        if self._faults.refusals:
            self._handler.close_connection = True
            refusal = self._faults.refusals.pop(0)
            if refusal is not None:
                self._handler.send(refusal)
        elif self._handler.command == "PUT":
            content = self._receive(self._application.max_content_bytes(self._token))
            self._handler.send(HttpResponse(200, self._application.store_content(self._token, content)))
        elif self._handler.command in CONTENT_METHODS:
            self._send(self._application.find_file(self._token))
        else:
            self._refuse(Refusal.method_not_allowed(CONTENT_METHODS))

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse the request. Usually the content has not arrived yet."""
        self._handler.close_connection = True
        self._handler.send(HttpResponse.of(refusal))

    def _receive(self, max_bytes: int) -> bytes:
        check_content_size(self._handler.declared_bytes() or 0, max_bytes)
        content = bytearray()
        for piece in self._handler.pieces(self._next):
            content += piece
            self._moved += len(piece)
            check_content_size(len(content), max_bytes)
        return bytes(content)

    def _send(self, file: StoredFile) -> None:
        headers = {name.lower(): value for name, value in self._handler.headers.items()}
        response = ContentResponse.of(file, headers)
        self._handler.send_head(response.status, response.headers)
        if self._handler.command == "HEAD":
            return
        view = memoryview(file.content)[response.start : response.start + response.length]
        while self._moved < len(view):
            step = self._next(len(view) - self._moved)
            if not step:
                raise _Cut
            self._handler.wfile.write(view[self._moved : self._moved + step])
            self._moved += step

    def _next(self, left: int) -> int:
        """Delay the transfer, and return how many bytes to transfer next; 0 closes the connection."""
        step = min(left, _CHUNK_BYTES)
        if self._cut_at is not None:
            step = min(step, self._cut_at - self._moved)
        if self._faults.bytes_per_second:
            time.sleep(step / self._faults.bytes_per_second)
        return step
