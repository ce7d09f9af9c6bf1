# SPDX-License-Identifier: Apache-2.0
"""Attacks: requests of hostile or careless jobs, users and strangers on many concurrent connections."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.tasks import TASK_ID_HEADER, TASK_NONCE_HEADER
from benchmarks.reports import http_request, signed_request

MIB = 1024 * 1024

MakeRequest = Callable[[int], bytes]
"""Takes the number of a connection; returns an HTTP/1.1 request, freshly signed."""


@dataclass(frozen=True)
class Attack:
    """A request that each connection repeats as soon as it has the response.

    :param before: sent once before, and answered with a 2xx
    :param reads: whether the answers are read; else a connection sends one request and waits
    """

    name: str
    make_request: MakeRequest
    connections: int = 16
    before: Sequence[bytes] = ()
    reads: bool = True


def attacks(
    jobs: Sequence[JobInfo], host: str, new_token: Callable[[], str], content: str
) -> Iterator[Attack]:
    """Yield all attacks.

    :param jobs: some 50
    :param host: and port of the API server
    :param new_token: of a user who may do everything; each has a budget of its own
    :param content: path of a content of 64 MiB
    """
    evil, other, talks, logs = jobs[:4]
    deep = b'{"spec":[' + b",".join([b"[" * 60 + b"]" * 60] * 8600) + b"]}"
    large = json.dumps({"results": "x" * (MIB - 100)}).encode()
    malformed = b'{"a":[' + b"{}," * 30_000 + b'{}],"status":1,"b":"' + b"x" * (MIB - 200_000) + b'"}'
    lines = json.dumps({"logs": ["z" * 16_000] * 60}).encode()
    message = json.dumps({"statusDetails": {"progress": 1, "message": "m" * (MIB - 1000)}}).encode()
    lying = {TASK_ID_HEADER: other.job_id, TASK_NONCE_HEADER: "n"}

    def signed(job: JobInfo, method: str, path: str, body: bytes = b"") -> MakeRequest:
        return lambda _: signed_request(job, method, path, body)

    def user() -> dict[str, str]:
        return {"Authorization": f"Bearer {new_token()}", "Content-Type": "application/json"}

    def sent(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> MakeRequest:
        request = http_request(method, f"/async{path}", host, headers, body)
        return lambda _: request

    announcement = json.dumps({"hash": "0" * 32, "challenge": "0" * 32, "size": 1}).encode()
    upload = f"/upload/default/{other.job_id}/file"
    yield Attack("registrations without proof, 1 MiB, nested", sent("POST", "/task/register", lying, deep))
    yield Attack("reports without proof, 1 MiB", lambda _: _unsigned(evil, large))
    yield Attack("one job's reports of 1 MiB", signed(evil, "POST", "/status", large))
    yield Attack("one job's malformed reports of 1 MiB", signed(evil, "POST", "/status", malformed))
    yield Attack("one job's small reports", signed(evil, "POST", "/status", b'{"statusDetails":1}'))
    yield Attack("one job's GET /job", signed(other, "GET", "/job"))
    yield Attack("one job's PUT /upload", signed(other, "PUT", upload, announcement))
    yield Attack("one job's log lines of 16 KiB", signed(talks, "POST", "/status", lines), connections=8)
    filled = [signed_request(logs, "POST", "/status", lines) for _ in range(10)]
    path = f"/actions/{logs.job_id}/logs"
    yield Attack("4 viewers of a full log", sent("GET", path, user()), connections=4, before=filled)
    said = [signed_request(job, "POST", "/status", message) for job in jobs[4:]]
    yield Attack(
        "4 viewers of messages of 1 MiB", sent("GET", "/actions", user()), connections=4, before=said
    )
    yield Attack("500 clients that send 10 bytes of 1 MiB", lambda _: _head(host), 500, reads=False)
    yield Attack("200 clients that read nothing of 64 MiB", sent("GET", content, {}), 200, reads=False)
    for name, fields in _inputs().items():
        operation, _, what = name.partition(": ")
        body = json.dumps(fields).encode()
        yield Attack(
            f"an operation's input: {what}", sent("PUT", f"/{operation}", user(), body), connections=4
        )


def _inputs() -> dict[str, dict[str, object]]:
    prime = 2**61 - 1
    return {
        "takes_unique_items: 20,000 numbers of one hash": {"ids": [n * prime for n in range(20_000)] + [0]},
        "takes_any: 60,000 keys": {f"k{n}": n for n in range(60_000)},
        "takes_a_pattern: nested quantifiers": {"mail": "a" * 27 + "!"},
        "takes_a_tree: 2^14 nodes by $ref": {"node": _tree(14)},
        "takes_a_tree: 2^12 nodes, accepted": {"node": _tree(12)},
    }


def _tree(levels: int) -> object:
    """Return a tree of ``levels`` levels without branches above as many with two branches each."""
    tree: object = None
    for level in range(2 * levels):
        tree = {"a": tree, "b": tree} if level < levels else {"a": tree}
    return tree


def _unsigned(job: JobInfo, body: bytes) -> bytes:
    return signed_request(replace(job, secret_key=job.secret_key[::-1]), "POST", "/status", body)


def _head(host: str) -> bytes:
    request = http_request("POST", "/async/status", host, {}, b"x" * MIB)
    return request[: request.index(b"\r\n\r\n") + 14]


@contextmanager
def going_on(attack: Attack, host: str, port: int) -> Iterator[Counter[str]]:
    """Attack from another process; the yielded counter has the number of each status at the end."""
    context = multiprocessing.get_context("fork")
    statuses: Counter[str] = Counter()
    ours, theirs = context.Pipe()
    process = context.Process(target=_attack, args=(attack, host, port, theirs))
    process.start()
    try:
        yield statuses
    finally:
        ours.send("stop")
        statuses.update(ours.recv())
        process.join()


def _attack(attack: Attack, host: str, port: int, pipe: multiprocessing.connection.Connection) -> None:
    statuses: Counter[str] = Counter()

    async def run() -> None:
        stop = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=lambda: (pipe.recv(), loop.call_soon_threadsafe(stop.set_result, None))
        ).start()
        senders = [
            asyncio.create_task(_send(attack, number, host, port, statuses))
            for number in range(attack.connections)
        ]
        await stop
        for sender in senders:
            sender.cancel()

    asyncio.run(run())
    pipe.send(statuses)


async def _send(attack: Attack, number: int, host: str, port: int, statuses: Counter[str]) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port, limit=MIB)
        except OSError:
            statuses["refused connection"] += 1
            await asyncio.sleep(0.1)
            continue
        with suppress(OSError, asyncio.IncompleteReadError):
            await _exchange(attack, number, reader, writer, statuses)
        writer.transport.abort()


async def _exchange(
    attack: Attack,
    number: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    statuses: Counter[str],
) -> None:
    while True:
        writer.write(attack.make_request(number))
        await writer.drain()
        if not attack.reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(3600)
        head = await reader.readuntil(b"\r\n\r\n")
        statuses[head[9:12].decode()] += 1
        lengths = [line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        await reader.readexactly(int(lengths[0]) if lengths else 0)
        if b"connection: close" in head.lower():
            return
