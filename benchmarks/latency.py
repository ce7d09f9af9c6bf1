# SPDX-License-Identifier: Apache-2.0
"""Latency of one client that sends a request every 30 ms."""

from __future__ import annotations

import http.client
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

TIMEOUT_SECONDS = 120

_REQUESTS = 200
_PAUSE_SECONDS = 0.03


@dataclass(frozen=True)
class Latency:
    """Latency of sequential requests."""

    p50_ms: float
    p99_ms: float

    def beside(self, idle: Latency) -> str:
        """Format the latency, with the ratio of the p99 to that of an idle server."""
        ratio = self.p99_ms / idle.p99_ms
        return f"p50 {self.p50_ms:7.1f}  p99 {self.p99_ms:7.1f} ms ({ratio:5.1f} x)"


def measure_latency(
    base_url: str, method: str, path: str, body: bytes = b"", headers: Callable[[], dict[str, str]] = dict
) -> Latency:
    """Send 200 requests over one connection, and return their latency.

    :raises RuntimeError: a response is no success
    """
    all_ms = []
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=TIMEOUT_SECONDS)
    for _ in range(_REQUESTS):
        time.sleep(_PAUSE_SECONDS)
        began_at = time.perf_counter()
        connection.request(method, path, body or None, headers())
        response = connection.getresponse()
        response.read()
        all_ms.append(1000 * (time.perf_counter() - began_at))
        if response.status not in (requests.codes.ok, requests.codes.no_content):
            raise RuntimeError(f"{method} {path} returned {response.status}")
    connection.close()
    cuts = statistics.quantiles(all_ms, n=100)
    return Latency(cuts[49], cuts[98])
