# SPDX-License-Identifier: Apache-2.0
"""WSGI adapter and throttle: clients that are slow, many, or send too much."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_asyncaction.protocol.signing import JOB_ID_HEADER
from airflow_asyncaction.web import rate_limits
from airflow_asyncaction.web.rate_limits import Exchange, Sender, Throttle
from airflow_asyncaction.web.wsgi_adapter import BufferedWsgi, WsgiApp
from tests.integration.asgi_client import PART, AsgiClient

pytestmark = pytest.mark.integration

MAX_BODY = 1024 * 1024
PIECE = 64 * 1024


def served(app: WsgiApp, *, threads: int = 4, patience: float = 30, per_second: float = 0) -> BufferedWsgi:
    return BufferedWsgi(
        app,
        max_body_bytes=MAX_BODY,
        threads=threads,
        patience=timedelta(seconds=patience),
        throttle=Throttle(per_second),
    )


def echo(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    start("200 OK", [("content-type", "text/plain")])
    return [environ["wsgi.input"].read()]


def pieces(size: int) -> Iterable[dict[str, Any]]:
    """Return a body in messages, as a server receives it."""
    for start in range(0, size, PIECE):
        body = b"x" * min(PIECE, size - start)
        yield {"type": "http.request", "body": body, "more_body": start + PIECE < size}


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, MAX_BODY])
def test_a_body_comes_and_an_answer_goes_in_pieces(size: int) -> None:
    client = AsgiClient(served(echo))
    assert client.request("POST", "/", messages=pieces(size) if size else None).body == b"x" * size
    assert max(len(message.get("body", b"")) for message in client.sent) <= PIECE


def test_of_a_body_that_is_too_long_the_rest_is_discarded() -> None:
    """Otherwise a sender that reads nothing before it has sent everything would get no response."""
    body = iter(pieces(20 * MAX_BODY))
    answer = AsgiClient(served(echo)).request("POST", "/", messages=body)
    assert len(answer.body) == MAX_BODY + 1  # which the app refuses
    assert next(body, None) is None


def test_an_endless_body_is_not_read_to_its_end() -> None:
    body = iter(pieces(200 * MAX_BODY))
    assert len(AsgiClient(served(echo)).request("POST", "/", messages=body).body) == MAX_BODY + 1
    assert len(list(body)) * PIECE > 100 * MAX_BODY


def test_a_body_that_arrives_too_slowly_is_refused() -> None:
    answer = AsgiClient(served(echo, patience=0.05)).request("POST", "/", messages=[PART])
    assert answer.error == (408, "too_slow")


class Gate:
    """A WSGI app in which the requests of action "one" wait until it is opened.

    :ivar most: how many of them have been in it at the same time
    """

    def __init__(self) -> None:
        self.most = 0
        self.opened = threading.Event()
        self._inside = 0
        self._lock = threading.Lock()
        self._came = threading.Semaphore(0)

    async def until(self, count: int) -> None:
        """Wait until so many have come in."""
        for _ in range(count):
            assert await asyncio.to_thread(self._came.acquire, timeout=60)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["HTTP_X_JOB_ID"] == "one":
            with self._lock:
                self._inside += 1
                self.most = max(self.most, self._inside)
            self._came.release()
            self.opened.wait()
            with self._lock:
                self._inside -= 1
        return echo(environ, start)


async def ask(app: BufferedWsgi, job_id: str, path: str = "/") -> int:
    """Send a request of a job; return the answer's status."""
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    headers = [(JOB_ID_HEADER.lower().encode(), job_id.encode())]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": headers,
    }
    await app(scope, receive, send)
    return int(statuses[0])


@pytest.mark.parametrize("path", ["/task/action", "/upload/default/one/x/0/complete"])
def test_what_takes_long_holds_up_no_other_part_of_an_action(path: str) -> None:
    async def exchange() -> None:
        gate = Gate()
        app = served(gate, threads=8, per_second=20)
        flood = [asyncio.create_task(ask(app, "one", path)) for _ in range(4)]
        report = asyncio.create_task(ask(app, "one", "/status"))
        try:
            await gate.until(3)  # two of the flood, and the report
        finally:
            gate.opened.set()
        await asyncio.gather(report, *flood)

    asyncio.run(exchange())


def test_one_actions_reports_take_one_thread() -> None:
    async def exchange() -> list[int]:
        gate = Gate()
        app = served(gate, per_second=20)
        flood = [asyncio.create_task(ask(app, "one")) for _ in range(16)]
        try:
            others = [await ask(app, "other") for _ in range(3)]  # while the flood waits
        finally:
            gate.opened.set()
        statuses = [*others, *await asyncio.gather(*flood)]
        assert gate.most == 1
        return statuses

    assert asyncio.run(exchange()) == [200] * 19


ONE = Sender("one")
USER = Sender("bearer x", is_user=True)


def answered(status: int, method: str = "POST", **sizes: int) -> Exchange:
    return Exchange(method=method, status=status, **sizes)


@pytest.mark.parametrize(
    ("status", "is_held"), [(200, False), (400, False), (401, False), (503, False), (429, True)]
)
def test_a_throttled_sender_waits_for_its_response(
    monkeypatch: pytest.MonkeyPatch, status: int, is_held: bool
) -> None:
    slept = slept_for(monkeypatch)
    asyncio.run(Throttle(20).delay_response(ONE, answered(status)))
    assert bool(slept) == is_held


def test_many_that_are_refused_wait_for_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = slept_for(monkeypatch)

    async def refused() -> None:
        throttle = Throttle(20)
        for number in range(1000):
            await throttle.delay_response(Sender(str(number)), answered(401))
        await throttle.delay_response(ONE, answered(200))

    asyncio.run(refused())
    assert 500 <= len(slept) < 1000


def test_refusals_of_one_sender_or_of_large_bodies_wait_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = slept_for(monkeypatch)

    async def at_once(sender: Sender, exchange: Exchange) -> int:
        slept.clear()
        throttle = Throttle(20)
        for _ in range(200):
            await throttle.delay_response(sender, exchange)
        return 200 - len(slept)

    assert asyncio.run(at_once(Sender(""), answered(400))) == 200
    assert asyncio.run(at_once(ONE, answered(400))) == 20
    assert asyncio.run(at_once(Sender(""), answered(400, received_bytes=1024 * 1024))) == 12


def test_a_flood_that_was_held_back_leaves_no_debt(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = slept_for(monkeypatch)
    now = [0.0]
    monkeypatch.setattr(rate_limits, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def refused() -> None:
        throttle = Throttle(20)
        for _ in range(100_000):
            await throttle.delay_response(ONE, answered(401))
        held, now[0] = len(slept), 1.0
        await throttle.delay_response(ONE, answered(401))
        assert len(slept) == held

    asyncio.run(refused())


@pytest.mark.parametrize(
    ("exchange", "at_once"),
    [
        (answered(200, "GET"), 200),
        (answered(200, "GET", sent_bytes=256 * 1024), 40),
        (answered(304, "GET"), 797),
        (answered(202, "PUT"), 50),
        (answered(202, "PUT", received_bytes=128 * 1024), 10),
    ],
)
def test_a_user_waits_for_tokens(monkeypatch: pytest.MonkeyPatch, exchange: Exchange, at_once: int) -> None:
    slept = slept_for(monkeypatch)
    monkeypatch.setattr(rate_limits, "time", SimpleNamespace(monotonic=lambda: 0.0))

    async def requests(sender: Sender) -> None:
        throttle = Throttle(20)
        for _ in range(at_once + 1):
            async with throttle.admit(sender):
                throttle.charge(sender, exchange)

    asyncio.run(requests(USER))
    assert slept[:at_once] == pytest.approx([0] * at_once)
    assert 0 < slept[at_once] <= 1 / 20
    slept.clear()
    asyncio.run(requests(ONE))  # a job has its budget
    assert not slept


def slept_for(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no answer be held back; return how long each would have been."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(rate_limits, "asyncio", SimpleNamespace(sleep=sleep, Semaphore=asyncio.Semaphore))
    return slept
