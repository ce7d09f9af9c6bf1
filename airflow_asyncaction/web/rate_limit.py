# SPDX-License-Identifier: Apache-2.0
"""How many reports a second one action may send to this process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

_BURST_SECONDS = 10
_MAX_BUCKETS = 10_000


class RateLimit:
    """A token bucket per key, in memory: each process of the API server has its own.

    :param per_second: tokens that each bucket gains; 0: no limit. A bucket holds ten seconds' worth,
        one at the least.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def is_used_up(self, key: str) -> bool:
        """Tell whether a bucket is empty."""
        if self._per_second <= 0:
            return False
        with self._lock:
            return self._tokens(key, time.monotonic()) < 1

    def use(self, key: str) -> None:
        """Take a token."""
        if self._per_second <= 0:
            return
        now = time.monotonic()
        with self._lock:
            tokens = self._tokens(key, now)
            self._buckets.pop(key, None)
            self._buckets[key] = (tokens - 1, now)
            if len(self._buckets) > _MAX_BUCKETS:
                self._buckets.popitem(last=False)

    def _tokens(self, key: str, now: float) -> float:
        full = max(1.0, self._per_second * _BURST_SECONDS)
        tokens, since = self._buckets.get(key, (full, now))
        return min(full, tokens + (now - since) * self._per_second)
