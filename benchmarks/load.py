# SPDX-License-Identifier: Apache-2.0
"""Load generator: prepared HTTP requests over keep-alive connections, one at a time on each.

It runs in a process of its own, and prepares everything before it measures, so that it takes little of the
machine from the server.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

Steps = Generator[bytes, bytes, None]
"""Dependent requests: yields a request, receives the body of its response."""


@dataclass(frozen=True)
class Load:
    """Requests and their target.

    :param make_request: takes (connection, number), returns a whole HTTP/1.1 request, or several that follow
        from each other and are measured as one
    :param requests: per connection
    """

    host: str
    port: int
    make_request: Callable[[int, int], bytes | Steps]
    connections: int
    requests: int


@dataclass(frozen=True)
class Measured:
    """Result of a load."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return f"{self.requests_per_second:8.0f}/s   p50 {self.p50_ms:7.1f} ms   p99 {self.p99_ms:7.1f} ms"


def measure(load: Load) -> Measured:
    """Send the load and return its result.

    :raises RuntimeError: a request was not answered with a 2xx
    """
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.SimpleQueue[Measured | str] = context.SimpleQueue()
    process = context.Process(target=_run, args=(load, queue))
    process.start()
    measured = queue.get()
    process.join()
    if isinstance(measured, str):
        raise RuntimeError(measured)
    return measured


def _run(load: Load, queue: multiprocessing.SimpleQueue[Measured | str]) -> None:
    requests = [
        [load.make_request(connection, number) for number in range(load.requests)]
        for connection in range(load.connections)
    ]
    try:
        queue.put(asyncio.run(_measure(load, requests)))
    except Exception as error:  # noqa: BLE001 - reported by the other process
        queue.put(f"{type(error).__name__}: {error}")


async def _measure(load: Load, requests: Sequence[Sequence[bytes | Steps]]) -> Measured:
    streams = [await asyncio.open_connection(load.host, load.port) for _ in requests]
    start = time.perf_counter()
    times = await asyncio.gather(
        *(_send_all(*stream, mine) for stream, mine in zip(streams, requests, strict=True))
    )
    seconds = time.perf_counter() - start
    for _, writer in streams:
        writer.close()
    all_ms = [1000 * one for mine in times for one in mine]
    cuts = statistics.quantiles(all_ms, n=100)
    return Measured(len(all_ms) / seconds, cuts[49], cuts[98])


async def _send_all(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: Sequence[bytes | Steps]
) -> list[float]:
    times = []
    for request in requests:
        sent_at = time.perf_counter()
        if isinstance(request, bytes):
            await _exchange(reader, writer, request)
        else:
            await _follow(reader, writer, request)
        times.append(time.perf_counter() - sent_at)
    return times


async def _follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, steps: Steps) -> None:
    request: bytes | None = next(steps)
    while request is not None:
        answer = await _exchange(reader, writer, request)
        try:
            request = steps.send(answer)
        except StopIteration:
            request = None


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    body = await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(f"{head.splitlines()[0].decode()}: {body[:300].decode(errors='replace')}")
    return body
