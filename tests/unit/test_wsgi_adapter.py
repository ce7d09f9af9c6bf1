# SPDX-License-Identifier: Apache-2.0
"""WSGI adapter: responds to too large a body before reading it, then reads enough to deliver the response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message

from airflow_asyncaction.protocol.reports import LARGEST_BODY_BYTES
from airflow_asyncaction.web.rate_limits import Throttle
from airflow_asyncaction.web.wsgi_adapter import BufferedWsgi

MOST = 1000
PIECE = 64 * 1024
GONE: Message = {"type": "http.disconnect"}


def refusing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Respond with the number of received bytes."""
    body = str(len(environ["wsgi.input"].read())).encode()
    status = "413 Payload Too Large" if int(environ.get("CONTENT_LENGTH") or body) > MOST else "200 OK"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def exchange(
    pieces: Iterable[bytes],
    *,
    declared: int | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
    wrap: Callable[[ASGIApp], Any] | None = None,
) -> Sequence[tuple[str, Any]]:
    """Serve one request. Return its events: ``read`` a size, ``start`` with a status, ``body``, ``end``.

    An empty piece ends the body. Without one, the client disconnects.
    """
    app: Any = BufferedWsgi(
        refusing, max_body_bytes=MOST, threads=1, patience=timedelta(minutes=1), throttle=Throttle(0)
    )
    app = wrap(app) if wrap else app
    length = [] if declared is None else [(b"content-length", str(declared).encode())]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"accept-encoding", b"gzip"), *length, *headers],
    }
    events: list[tuple[str, Any]] = []
    left: Iterator[Message] = (
        {"type": "http.request", "body": piece, "more_body": bool(piece)} for piece in pieces
    )

    async def receive() -> Message:
        message = next(left, GONE)
        events.append(("read", len(message.get("body", b""))))
        return message

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            events.append(("start", message["status"]))
        elif message.get("body"):
            events.append(("body", message["body"]))
        if message["type"] == "http.response.body" and not message.get("more_body"):
            events.append(("end", None))

    asyncio.run(app(scope, receive, send))
    return events


def test_a_declared_length_is_refused_before_anything_is_read() -> None:
    events = exchange([b"x" * MOST] * 3, declared=3 * MOST)
    read = [("read", MOST)] * 3
    assert events == [("start", 413), ("body", b"0"), *read, ("read", 0), ("end", None)]


def test_a_body_without_a_length_is_read_up_to_the_limit_before_it_is_answered() -> None:
    events = exchange([b"x" * MOST] * 4)
    read = ("read", MOST)
    answer = [("start", 413), ("body", str(MOST + 1).encode())]
    assert events == [read, read, *answer, read, read, ("read", 0), ("end", None)]


@pytest.mark.parametrize("declared", [10**12, 10**400])
def test_no_more_is_read_than_clients_send(declared: int) -> None:
    events = exchange((b"x" * PIECE for _ in range(2 * LARGEST_BODY_BYTES // PIECE)), declared=declared)
    assert sum(size for event, size in events if event == "read") == LARGEST_BODY_BYTES
    assert events[-1] == ("end", None)


def test_a_response_is_not_delayed_by_compression() -> None:
    events = exchange(
        [b"x" * MOST] * 2, declared=2 * MOST, wrap=lambda app: GZipMiddleware(app, minimum_size=1)
    )
    assert events[:2] == [("start", 413), ("body", b"0")]


def test_a_body_within_the_limit_is_read_completely() -> None:
    events = exchange([b"x" * 400, b"x" * 600, b""], declared=MOST)
    read = [("read", 400), ("read", 600), ("read", 0)]
    assert events == [*read, ("start", 200), ("body", b"1000"), ("end", None)]


def test_a_length_is_ignored_for_chunked_bodies() -> None:
    """A v1 signature, which does not cover the body, would be valid for an empty body that was never read."""
    chunked = (b"transfer-encoding", b"chunked")
    events = exchange([b"x" * 400, b"x" * 400, b""], declared=10**6, headers=[chunked])
    assert events[:3] == [("read", 400), ("read", 400), ("read", 0)]
