# SPDX-License-Identifier: Apache-2.0
"""Fair turns: keep one sender, and those that prove nothing, from occupying all threads of a lane."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from airflow_asyncaction.web.budgets import RETRY_AFTER_SECONDS, TokenBuckets

_REFUSED = range(400, 429)
_TOO_MANY = 429
_NOT_MODIFIED = 304
_REFUSED_OF_ONE = 1 / 10
"""Share of the refusals answered at once that one sender may have."""
_LAUNCH_TOKENS = 4.0
_POLL_TOKENS = 0.25
_TOKEN_BYTES_IN = 8 * 1024
_TOKEN_BYTES_OUT = 64 * 1024


@dataclass(frozen=True)
class Sender:
    """Who sends a request, as far as its headers say.

    :param name: of an action or task instance and a part of it, or a user's credentials; empty: unknown
    :param is_user: whether it is a user or service, and not a job or its task, whose requests are budgeted
    :param at_once: how many of its requests are served at a time; an action's reports wait for its row anyway
    """

    name: bytes
    is_user: bool = False
    at_once: int = 1


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request that was answered.

    :param received_bytes: in the body of the request
    :param sent_bytes: in the body of the answer
    """

    method: str
    status: int
    received_bytes: int = 0
    sent_bytes: int = 0


class SenderTurns:
    """Serves one or two requests of a sender at a time, in order of arrival, and slows down frequent senders.

    - A user's requests are paced by a token bucket. A request costs a token, a poll that finds nothing new
      (304) a quarter of it, a ``PUT`` (a launch or a stop) four, and large bodies more. A user whose bucket
      is empty waits for tokens and is not refused.
    - An answer is held back for one to two seconds if it is a 429, or a refusal (400 to 428) beyond the limit
      for its sender or for the process.

    Waiting takes a connection and no thread. A client that waits for held answers sends less than one request
    a second on each of its connections, and not on all of them at the same moment.

    :param per_second: tokens a second of each user, and refusals a second that the process answers at once; a
        tenth of the refusals may be of one sender. Bursts are ten times as large. 0: no limit
    """

    def __init__(self, per_second: float) -> None:
        self._waiting: dict[bytes, tuple[asyncio.Semaphore, int]] = {}
        self._users = TokenBuckets(per_second)
        self._refused = TokenBuckets(per_second)
        self._refused_of_one = TokenBuckets(per_second * _REFUSED_OF_ONE)

    @asynccontextmanager
    async def of(self, sender: Sender) -> AsyncIterator[None]:
        """Wait for a sender's turn; unknown senders do not wait."""
        name = sender.name
        if not name:
            yield
            return
        semaphore, count = self._waiting.get(name) or (
            asyncio.Semaphore(sender.at_once),
            0,
        )
        self._waiting[name] = (semaphore, count + 1)
        try:
            async with semaphore:
                if sender.is_user:
                    await asyncio.sleep(self._users.seconds_until(_key(sender)))
                yield
        finally:
            semaphore, count = self._waiting.pop(name)
            if count > 1:
                self._waiting[name] = (semaphore, count - 1)

    def charge(self, sender: Sender, exchange: Exchange) -> None:
        """Take the tokens that a request of a user costs."""
        if not sender.is_user:
            return
        tokens = _LAUNCH_TOKENS if exchange.method == "PUT" else 1
        if exchange.status == _NOT_MODIFIED:
            tokens = _POLL_TOKENS
        tokens += exchange.received_bytes // _TOKEN_BYTES_IN + exchange.sent_bytes // _TOKEN_BYTES_OUT
        self._users.use(_key(sender), tokens)

    async def hold(self, sender: Sender, exchange: Exchange) -> None:
        """Wait if the answer is to be held back."""
        if exchange.status == _TOO_MANY or (
            exchange.status in _REFUSED and self._is_beyond(sender, exchange)
        ):
            await asyncio.sleep(RETRY_AFTER_SECONDS * random.uniform(1, 2))  # noqa: S311 - no secret

    def _is_beyond(self, sender: Sender, exchange: Exchange) -> bool:
        """Count a refusal; tell whether it exceeds a limit. Held refusals leave no debt."""
        key = _key(sender)
        if self._refused.is_used_up("") or (key and self._refused_of_one.is_used_up(key)):
            return True
        self._refused.use("", 1 + exchange.received_bytes // _TOKEN_BYTES_OUT)
        if key:
            self._refused_of_one.use(key)
        return False


def _key(sender: Sender) -> str:
    return sender.name.decode("latin-1")
