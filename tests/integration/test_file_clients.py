# SPDX-License-Identifier: Apache-2.0
"""Clients that disconnect during a transfer, or are too slow."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from airflow_asyncaction.web import asgi
from airflow_asyncaction.web.app import Serving
from tests.integration.file_servers import Folder, Kept, Serve
from tests.integration.file_transfers import (
    announce,
    download,
    locate,
    put_content,
    upload,
)
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import SignedJob, registered

pytestmark = pytest.mark.integration

SIZE = 200_000
MIB = 1024 * 1024
NO_SUCH_FILE = (404, "no_such_file")

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True, scope="session")
on_mounted = pytest.mark.parametrize("server", ["mounted"])


@contextmanager
def begun(url: str, method: str, *headers: str, receive_bytes: int = 0) -> Iterator[socket.socket]:
    """Send only the head of a request."""
    parts = urlsplit(url)
    with socket.socket() as connection:
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(20)
        connection.connect((parts.hostname, parts.port))
        lines = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        yield connection


@pytest.mark.parametrize("sent_bytes", [0, 1, SIZE // 2, SIZE - 1])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_client_that_goes_away_leaves_nothing(
    own_job: SignedJob, folder: Folder, kept: Kept, is_chunked: bool, sent_bytes: int
) -> None:
    content = secrets.token_bytes(SIZE)
    url = announce(own_job, "model", content).fields["url"]
    framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {SIZE}"
    with begun(url, "PUT", framing) as connection:
        connection.sendall(f"{SIZE:x}\r\n".encode() * is_chunked + content[:sent_bytes])
        until = time.monotonic() + 5
        while not folder.names() and time.monotonic() < until:
            time.sleep(0.01)
        assert [name.partition("/")[0] for name in folder.names()] == ["incoming"]
    assert kept.is_nothing()
    assert locate(own_job, "model").error == NO_SUCH_FILE
    assert put_content(own_job, url, content).status == 200


def test_a_client_that_expects_100_continue_does_not_send_too_large_a_body(
    own_job: SignedJob, kept: Kept
) -> None:
    url = announce(own_job, "model", b"x").fields["url"]
    with begun(url, "PUT", f"Content-Length: {SIZE}", "Expect: 100-continue") as connection:
        answered = b""
        while chunk := connection.recv(10_000):
            answered += chunk
    assert b"HTTP/1.1 413 " in answered
    assert b'"too_large"' in answered
    assert kept.is_nothing()


@on_sqlite
@on_mounted
def test_a_client_that_sends_too_slowly_is_cut(
    serve: Serve, new_task: Callable[..., RunningTask], kept: Kept
) -> None:
    job = registered(new_task(), serve(Serving(patience=timedelta(seconds=1))))
    url = announce(job, "model", secrets.token_bytes(SIZE)).fields["url"]
    began_at = time.monotonic()
    with begun(url, "PUT", f"Content-Length: {SIZE}") as connection:
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < began_at + 1.5:
                connection.sendall(b"x")
                time.sleep(0.3)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
            assert connection.recv(1000) == b""
    assert kept.is_nothing()
    assert job.report().status == 200


@on_sqlite
@on_mounted
@pytest.mark.parametrize(("waits_seconds", "is_cut"), [(0.0, False), (1.0, True)])
def test_a_client_that_reads_too_slowly_is_cut(
    serve: Serve,
    own_job: SignedJob,
    monkeypatch: pytest.MonkeyPatch,
    waits_seconds: float,
    is_cut: bool,
) -> None:
    monkeypatch.setattr(asgi, "SLOWEST_BYTES_PER_SECOND", 10**9)  # else it took an hour
    upload(own_job, "model", secrets.token_bytes(12 * MIB))
    job = own_job.on(serve(Serving(patience=timedelta(seconds=0.5))))
    url = locate(job, "model").fields["Location"]
    with begun(url, "GET", "Connection: close", receive_bytes=4096) as connection:
        time.sleep(waits_seconds)
        had = 0
        while chunk := connection.recv(MIB):
            had += len(chunk)
    assert (had < 12 * MIB) == is_cut
    assert job.report().status == 200


def test_a_client_that_stops_reading_does_no_harm(own_job: SignedJob) -> None:
    content = secrets.token_bytes(3 * MIB)
    upload(own_job, "model", content)
    url = locate(own_job, "model").fields["Location"]
    for _ in range(20):
        with begun(url, "GET") as connection:
            assert connection.recv(1)
    assert download(own_job, "model").content == content
