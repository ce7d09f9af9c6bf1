# SPDX-License-Identifier: Apache-2.0
"""Transfer deadline: limits how long a client may take to send or read a body."""

from __future__ import annotations

import time
from datetime import timedelta

SLOWEST_BYTES_PER_SECOND = 1024


class TransferDeadline:
    """The time that a client has left to transfer a body.

    :param patience: time for the whole transfer, in addition to one second per KiB
    """

    def __init__(self, patience: timedelta) -> None:
        self._patience_seconds = patience.total_seconds()
        self._until = time.monotonic() + self._patience_seconds

    def add(self, size_bytes: int) -> None:
        """Extend the deadline after a part of the body was transferred."""
        self._until += size_bytes / SLOWEST_BYTES_PER_SECOND

    def seconds_left(self) -> float:
        """Return the time left for the rest of the transfer."""
        return max(0.0, self._until - time.monotonic())

    def seconds_to_wait(self) -> float:
        """Return how long to wait for the next part."""
        return min(self.seconds_left(), self._patience_seconds)
