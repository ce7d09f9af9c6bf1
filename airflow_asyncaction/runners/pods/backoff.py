# SPDX-License-Identifier: Apache-2.0
"""Exponential backoff of everything that retries requests to a cluster."""

from __future__ import annotations

import random


class ExponentialBackoff:
    """Pauses that double from a first one up to a longest one.

    :param jitter: shorten each pause at random, down to its half, so that many clients do not retry at once
    """

    def __init__(self, first_seconds: float, longest_seconds: float, *, jitter: bool = False) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._jitter = jitter
        self._seconds = first_seconds

    @property
    def is_fresh(self) -> bool:
        """Whether there was no pause yet, or none since the last reset."""
        return self._seconds == self._first_seconds

    def reset(self) -> None:
        """Begin with the first pause again, after a success."""
        self._seconds = self._first_seconds

    def next_pause(self) -> float:
        """Return the next pause, in seconds."""
        seconds = self._seconds
        self._seconds = min(2 * seconds, self._longest_seconds)
        return seconds * random.uniform(0.5, 1.0) if self._jitter else seconds  # noqa: S311 - no secret
