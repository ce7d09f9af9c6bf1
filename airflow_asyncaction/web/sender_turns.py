# SPDX-License-Identifier: Apache-2.0
"""Keeps one sender, and those that prove nothing, from taking all threads of a lane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from airflow_asyncaction.web.budgets import RETRY_AFTER_SECONDS, TokenBuckets

_AT_ONCE = 2
_UNPROVEN_PER_SECOND = 20
_UNPROVEN = (401, 403)
_TOO_MANY = 429


class SenderTurns:
    """Serves the requests that name the same action two at a time, in the order in which they arrived.

    Some answers are held back for a second, without a thread: those to an action whose budget is used up, and
    those to unproven requests, once there are many of them. A client
    that waits for its answers sends one request a second on each of its connections.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[asyncio.Semaphore, int]] = {}
        self._unproven = TokenBuckets(_UNPROVEN_PER_SECOND)

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
        if status in _UNPROVEN:
            is_held = self._unproven.is_used_up("")
            if not is_held:  # those that wait leave no debt behind
                self._unproven.use("")
        if is_held:
            await asyncio.sleep(RETRY_AFTER_SECONDS)
