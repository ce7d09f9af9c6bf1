# SPDX-License-Identifier: Apache-2.0
"""How many logs one triggerer follows at a time: each is a connection, to the cluster and to a kubelet."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from airflow_asyncaction import settings


class LogSlots:
    """Slots for logs that are followed live. Who gets none waits in line, until its container ends."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._line: dict[Callable[[], None], None] = {}

    def take(self, wake: Callable[[], None]) -> bool:
        """Take a slot; if there is none, have ``wake`` called when there may be one."""
        if self._free > 0:
            self._free -= 1
            self._line.pop(wake, None)
            return True
        self._line[wake] = None
        return False

    def leave(self, wake: Callable[[], None]) -> None:
        """Wait in line no more; who was woken and needs no slot leaves it to the next one."""
        self._line.pop(wake, None)
        if self._free > 0:
            self._wake_next()

    def give_back(self) -> None:
        """Free a slot, and wake who has waited longest."""
        self._free += 1
        self._wake_next()

    def _wake_next(self) -> None:
        if self._line:
            wake = next(iter(self._line))
            del self._line[wake]
            wake()


@cache
def log_slots() -> LogSlots:
    """Return this process's own."""
    return LogSlots(settings.load().live_pod_logs)
