# SPDX-License-Identifier: Apache-2.0
"""Requests that are too large: sent at most once, and every client receives the refusal."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest

from airflow_asyncaction.exceptions import ServerError, ServerUnreachable
from airflow_asyncaction.hooks.async_action import AsyncActionHook
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.job import Job, Timing
from airflow_asyncaction.job.transport import Request, Transport
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.reports import LARGEST_BODY_BYTES, Limits
from airflow_asyncaction.protocol.tasks import ActionSpec
from airflow_asyncaction.retrying import is_outage
from airflow_asyncaction.testing import JobServer
from tests.unit.remote_deployment import certify

LARGE = Limits().body_bytes + 1
TOO_LARGE = b'{"error": "too_large", "message": "said by the server"}'
ANSWER = (
    b"HTTP/1.1 413 Payload Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(TOO_LARGE), TOO_LARGE)
)


class Resetting:
    """A server that closes each connection while it receives a body, so that the sender is reset.

    :param answer: sent before that
    :param certificate: speak TLS, with the certificate and key of this file
    """

    def __init__(self, answer: bytes = b"", *, certificate: Path | None = None) -> None:
        self._answer = answer
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                with connection, suppress(OSError):
                    connection.recv(1000)
                    connection.sendall(self._answer)
                    if not self._answer:  # else what is sent is dropped by the reset
                        linger = struct.pack("ii", 1, 0)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def transport(port: int, *, scheme: str = "http") -> Transport:
    hook = f"{scheme}://127.0.0.1:{port}/async"
    info = JobInfo(job_id=JobId(str(uuid.uuid4())), secret_key="s" * 43, hook_url=hook)
    return Transport(info, timeout_seconds=5)


def send_as_job(port: int, size: int, patience_seconds: float) -> None:
    transport(port).send(Request("POST", "/status", b"x" * size), patience_seconds=patience_seconds)


def send_as_task(port: int, size: int, patience_seconds: float) -> None:
    hook = TaskHook(f"http://127.0.0.1:{port}/async")
    body = b"x" * size
    hook._send("POST", "/task/register", body, dict, timedelta(seconds=patience_seconds))


def send_as_user(port: int, size: int, patience_seconds: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        connection = {"conn_type": "asyncaction", "host": f"http://127.0.0.1:{port}/async", "password": "t"}
        patch.setenv("AIRFLOW_CONN_LARGE", json.dumps(connection))
        hook = AsyncActionHook("large", patience=timedelta(seconds=patience_seconds))
        hook.launch("etl.load", {"text": "x" * size})


Send = Callable[[int, int, float], None]
CLIENTS = [send_as_job, send_as_task, send_as_user]
PATIENCE_SECONDS = 60.0


@pytest.mark.parametrize("send", CLIENTS)
def test_a_connection_that_closes_on_a_large_body_is_no_outage(send: Send) -> None:
    with Resetting() as server:
        with pytest.raises(ServerError) as caught:
            send(server.port, 4 * LARGE, PATIENCE_SECONDS)
        assert (caught.value.status, caught.value.code, server.connections) == (413, "too_large", 1)


@pytest.mark.parametrize("send", CLIENTS)
def test_a_refusal_that_comes_before_the_end_of_a_body_is_heard(send: Send) -> None:
    with Resetting(ANSWER) as server:
        with pytest.raises(ServerError, match="said by the server") as caught:
            send(server.port, 4 * LARGE, PATIENCE_SECONDS)
        assert (caught.value.status, caught.value.code, server.connections) == (413, "too_large", 1)


@pytest.mark.parametrize("answer", [b"", ANSWER])
def test_a_job_receives_a_refusal_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    certificate = certify(tmp_path / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Resetting(answer, certificate=certificate) as server:
        sender = transport(server.port, scheme="https")
        with pytest.raises(ServerError) as caught:
            sender.send(Request("POST", "/status", b"x" * 4 * LARGE), patience_seconds=PATIENCE_SECONDS)
        assert (caught.value.status, caught.value.code, server.connections) == (413, "too_large", 1)


@pytest.mark.parametrize("send", CLIENTS)
def test_a_connection_that_closes_on_another_body_is_an_outage(send: Send) -> None:
    with Resetting() as server:
        with pytest.raises(ServerUnreachable):
            send(server.port, 1000, 1.0)
        assert server.connections > 1


@pytest.mark.parametrize("send", CLIENTS)
def test_a_large_body_waits_for_a_server_that_is_not_there(send: Send) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(ServerUnreachable):
        send(port, 4 * LARGE, 0.0)


@pytest.mark.parametrize("send", [send_as_job, send_as_task])
def test_what_no_server_takes_is_not_sent(send: Send) -> None:
    with Resetting() as server:
        with pytest.raises(ServerError, match="it was not sent") as caught:
            send(server.port, LARGEST_BODY_BYTES + 1, PATIENCE_SECONDS)
        assert (caught.value.status, caught.value.code, server.connections) == (413, "too_large", 0)


@pytest.mark.parametrize(("status", "is_waited_for"), [(0, True), (404, True), (502, True), (413, False)])
def test_a_trigger_does_not_wait_for_who_finds_it_too_large(status: int, is_waited_for: bool) -> None:
    """A page of a proxy has no code: most of what such pages say passes by itself."""
    assert is_outage(ServerError(status=status)) is is_waited_for


def test_a_closed_idle_connection_is_not_mistaken_for_a_refusal() -> None:
    """A server closes idle connections; it may have been configured to take more than others."""
    with JobServer(limits=Limits(body_bytes=8 * LARGE)) as server:
        tested = server.new_job()
        with Job(tested.info, timing=Timing(heartbeat_seconds=600, flush_seconds=600)) as job:
            job.flush()
            server.go_away()
            server.come_back()
            job.result("x" * 4 * LARGE)
    assert tested.action.results == json.dumps("x" * 4 * LARGE)


def test_a_result_counts_as_many_bytes_as_it_has_in_utf_8() -> None:
    text = "\u00e9" * 400_000  # 800 kB; 2.4 MB if JSON escapes them
    with JobServer() as server:
        tested = server.new_job()
        with Job(tested.info) as job:
            job.result(text)
    assert json.loads(tested.action.results or "") == text


def test_an_answer_may_be_as_long_as_what_it_repeats() -> None:
    text = "\u00e9" * 6_000_000  # 36 MB in the answer, which escapes them
    with JobServer(limits=Limits(body_bytes=16 * LARGE)) as server:
        tested = server.new_job()
        with Job(tested.info) as job:
            job.result(text)
        reported = [request for request in tested.requests if b"SUCCESS" in request.body]
    assert len(reported) == 1
    assert tested.action.state is State.SUCCESS


def test_an_agent_whose_name_is_no_utf_8_is_known() -> None:
    with JobServer() as server:
        tested = server.new_job()
        with Job(tested.info, agent={"hostname": "host-\udcff"}) as job:
            job.flush()
    assert tested.action.agent == '{"hostname":"host-?"}'


def test_a_registration_that_is_too_large_names_the_option() -> None:
    spec = ActionSpec(type="t", runner="r", arguments=json.dumps("x" * 4 * LARGE))  # type: ignore[arg-type]
    with Resetting() as server, pytest.raises(ServerError, match=r"\[asyncaction\] max_body_bytes"):
        TaskHook(f"http://127.0.0.1:{server.port}/async").register(str(uuid.uuid4()), "nonce", spec)
