# SPDX-License-Identifier: Apache-2.0
"""Exponential backoff for all retried requests to a cluster."""

from __future__ import annotations

import random


class ExponentialBackoff:
    """Exponentially growing pauses between a shortest and a longest one.

    :param jitter: shorten each pause at random, down to its half, so that many clients do not retry at once
    """

    def __init__(self, first_seconds: float, longest_seconds: float, *, jitter: bool = False) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._jitter = jitter
        self._seconds = first_seconds

    def reset(self) -> None:
        """Begin with the first pause again, after a success."""
        self._seconds = self._first_seconds

    def next_pause(self) -> float:
        """Return the next pause, in seconds."""
        seconds = self._seconds
        self._seconds = min(2 * seconds, self._longest_seconds)
        return seconds * random.uniform(0.5, 1.0) if self._jitter else seconds  # noqa: S311 - no secret
