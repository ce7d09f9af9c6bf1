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

    :param per_second: tokens that each bucket gains; 0: no limit. A bucket holds ten seconds' worth.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def takes(self, key: str) -> bool:
        """Take a token, if there is one."""
        if self._per_second <= 0:
            return True
        now, full = time.monotonic(), self._per_second * _BURST_SECONDS
        with self._lock:
            tokens, since = self._buckets.pop(key, (full, now))
            tokens = min(full, tokens + (now - since) * self._per_second)
            taken = tokens >= 1
            self._buckets[key] = (tokens - taken, now)
            if len(self._buckets) > _MAX_BUCKETS:
                self._buckets.popitem(last=False)
        return taken
