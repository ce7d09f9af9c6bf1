# SPDX-License-Identifier: Apache-2.0
"""Keeps one sender, and those that prove nothing, from taking all threads of a lane."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from airflow_asyncaction.web.budgets import RETRY_AFTER_SECONDS, TokenBuckets

_AT_ONCE = 2
_REFUSED = range(400, 429)
_TOO_MANY = 429


class SenderTurns:
    """The requests of one sender are served two at a time, in the order in which they came.

    Some answers are held back for one to two seconds, without a thread: those to an action whose budget is
    used up, and refusals, once there are many of them. A client that waits for its answers then sends less
    than one request a second on each of its connections, and not all of them at the same moment.

    :param refused_per_second: so many refusals a second are answered at once, in bursts of ten times as many;
        0: all of them
    """

    def __init__(self, refused_per_second: float) -> None:
        self._waiting: dict[bytes, tuple[asyncio.Semaphore, int]] = {}
        self._refused = TokenBuckets(refused_per_second)

    @asynccontextmanager
    async def of(self, sender: bytes) -> AsyncIterator[None]:
        """Wait for a sender's turn; who names nobody does not wait."""
        if not sender:
            yield
            return
        semaphore, count = self._waiting.get(sender) or (asyncio.Semaphore(_AT_ONCE), 0)
        self._waiting[sender] = (semaphore, count + 1)
        try:
            async with semaphore:
                yield
        finally:
            semaphore, count = self._waiting.pop(sender)
            if count > 1:
                self._waiting[sender] = (semaphore, count - 1)

    async def hold(self, status: int) -> None:
        """Wait, if an answer with this status is to be held back."""
        is_held = status == _TOO_MANY
        if status in _REFUSED:
            is_held = self._refused.is_used_up("")
            if not is_held:  # those that wait leave no debt behind
                self._refused.use("")
        if is_held:
            await asyncio.sleep(RETRY_AFTER_SECONDS * random.uniform(1, 2))  # noqa: S311 - no secret
