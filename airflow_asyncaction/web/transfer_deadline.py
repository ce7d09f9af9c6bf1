# SPDX-License-Identifier: Apache-2.0
"""Pace: limits how long a client may take to send or to read a body."""

from __future__ import annotations

import time
from datetime import timedelta

SLOWEST_BYTES_PER_SECOND = 1024


class TransferDeadline:
    """Tells how long a client may still take.

    :param patience: how long it may take in all, beyond a second for each KiB
    """

    def __init__(self, patience: timedelta) -> None:
        self._patience_seconds = patience.total_seconds()
        self._until = time.monotonic() + self._patience_seconds

    def add(self, size_bytes: int) -> None:
        """Give it the time for so much more."""
        self._until += size_bytes / SLOWEST_BYTES_PER_SECOND

    def seconds_left(self) -> float:
        """Return how long it may take for all that is left."""
        return max(0.0, self._until - time.monotonic())

    def seconds_to_wait(self) -> float:
        """Return how long it may be silent."""
        return min(self.seconds_left(), self._patience_seconds)
