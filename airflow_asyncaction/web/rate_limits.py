# SPDX-License-Identifier: Apache-2.0
"""Rate limits: a budget for each job and task (429), and a throttle that delays users and refused requests.

Every authenticated request counts against its sender's budget, even if it is refused. Unauthenticated
requests do not count: otherwise anyone could use up the budget of a job.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from flask import Flask, Response, g, request
from werkzeug.exceptions import TooManyRequests

from airflow_asyncaction.exceptions import StoreUnavailable
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.signing import JOB_ID_HEADER
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.actions import Actions

_RETRY_AFTER_SECONDS = 1

_BURST_SECONDS = 10
_MAX_BUCKETS = 10_000
_WARN_EVERY_SECONDS = 60
_WARNING = "The job has used up its request budget. The server responds with 429 until it sends less"
_SENDERS = {"jobs": "job", "files": "job", "tasks": "task", "task_files": "task"}
"""Sender of the requests to each signed blueprint. A job must not use up the budget of its task."""

_REFUSED = range(400, 429)
_TOO_MANY = 429
_NOT_MODIFIED = 304
_SENDER_SHARE = 1 / 10
"""Share of the undelayed refusals that a single sender may use."""
_PUT_TOKENS = 4.0
_POLL_TOKENS = 0.25
_TOKEN_BYTES_IN = 8 * 1024
_TOKEN_BYTES_OUT = 64 * 1024


class TokenBuckets:
    """One token bucket per key, in the memory of this process of the API server.

    :param per_second: tokens that each bucket gains per second; 0 disables the limit. A bucket holds the
        tokens of ten seconds, and at least one.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def is_used_up(self, key: str) -> bool:
        """Return whether a bucket is empty."""
        return self.seconds_until(key) > 0

    def seconds_until(self, key: str) -> float:
        """Return the time until a bucket has a token; 0 if it has one now."""
        if self._per_second <= 0:
            return 0
        with self._lock:
            missing = 1 - self._tokens(key, time.monotonic())
        return max(0.0, missing / self._per_second)

    def has_after(self, key: str, count: float) -> bool:
        """Return whether a bucket still has a token after ``count`` tokens are taken."""
        if self._per_second <= 0:
            return True
        with self._lock:
            return self._tokens(key, time.monotonic()) - count >= 1

    def use(self, key: str, count: float = 1) -> None:
        """Take tokens. A bucket may go into debt, which must be refilled first."""
        if self._per_second <= 0:
            return
        now = time.monotonic()
        with self._lock:
            tokens = self._tokens(key, now)
            self._buckets.pop(key, None)
            self._buckets[key] = (tokens - count, now)
            if len(self._buckets) > _MAX_BUCKETS:
                self._buckets.popitem(last=False)

    def _tokens(self, key: str, now: float) -> float:
        full = max(1.0, self._per_second * _BURST_SECONDS)
        tokens, since = self._buckets.get(key, (full, now))
        return min(full, tokens + (now - since) * self._per_second)


class Budgets:
    """Budgets of jobs and tasks: requests and bytes per second. A job must not use up that of its task."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._requests = TokenBuckets(settings.max_requests_per_second)
        self._bytes = TokenBuckets(settings.max_bytes_per_second)

    def check(self, key: str) -> None:
        """Check the budget before a request is read.

        :param key: sender (:func:`budget_key`)
        :raises TooManyRequests: the budget is used up
        """
        if self._requests.is_used_up(key):
            raise _too_many("max_requests_per_second", self._settings.max_requests_per_second)
        if self._bytes.is_used_up(key):
            raise _too_many("max_bytes_per_second", self._settings.max_bytes_per_second)

    def has_room(self, key: str, size_bytes: int) -> bool:
        """Return whether the budget is not used up after one more request."""
        return self._requests.has_after(key, 1) and self._bytes.has_after(key, size_bytes)

    def spend(self, key: str, size_bytes: int) -> None:
        """Take an authenticated request from a budget."""
        self._requests.use(key)
        self._bytes.use(key, size_bytes)

    def is_used_up(self, key: str) -> bool:
        """Return whether a budget is used up."""
        return self._requests.is_used_up(key) or self._bytes.is_used_up(key)


def budget_key(action_id: JobId, sender: str = "job") -> str:
    """Return the key of a budget.

    :param action_id: in lower case
    """
    return f"{sender} {action_id}"


def limit_requests(app: Flask, actions: Actions, budgets: Budgets) -> None:
    """Refuse requests of a job or task that has used up its budget with 429, before the body is read.

    A request counts once its signature is verified: ``SignedRequest.prove`` then sets
    ``g.authenticated_bytes``. For a job, the action's log gets a warning, at most once a minute.
    """
    warnings = TokenBuckets(1 / _WARN_EVERY_SECONDS)

    @app.before_request
    def check() -> None:
        sender = _SENDERS.get(request.blueprint or "")
        if sender is not None:
            budgets.check(budget_key(_action_id(), sender))

    @app.after_request
    def spend(response: Response) -> Response:
        sender, size_bytes = _SENDERS.get(request.blueprint or ""), g.get("authenticated_bytes")
        if sender is not None and size_bytes is not None:
            key = budget_key(_action_id(), sender)
            budgets.spend(key, size_bytes)
            if budgets.is_used_up(key) and sender == "job" and not warnings.is_used_up(key):
                warnings.use(key)
                with suppress(StoreUnavailable):  # the request itself succeeded
                    actions.log_warning(_action_id(), _WARNING, datetime.now(UTC))
        return response


def _action_id() -> JobId:
    return JobId(request.headers.get(JOB_ID_HEADER, "").lower())


def _too_many(option: str, limit: float) -> TooManyRequests:
    message = (
        f"The action exceeds [asyncaction] {option} ({limit:g}). Retry later, and send requests less often"
    )
    return TooManyRequests(message, retry_after=_RETRY_AFTER_SECONDS)


@dataclass(frozen=True)
class Sender:
    """Sender of a request, as claimed by its headers.

    :param name: an action or task instance and a group of routes, or a user's credentials; empty if unknown
    :param is_user: whether the sender is a person or service. Jobs and tasks have a budget instead.
    :param max_concurrency: how many of its requests are served at the same time. The reports of an action
        wait for its row anyway.
    """

    name: str
    is_user: bool = False
    max_concurrency: int = 1


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request and its response.

    :param received_bytes: size of the request's body
    :param sent_bytes: size of the response's body
    """

    method: str
    status: int
    received_bytes: int = 0
    sent_bytes: int = 0


class Throttle:
    """Serves one or two requests of a sender at a time, in order of arrival, and delays frequent senders.

    - A user's requests are paced by a token bucket. A request costs one token, an unchanged poll (304) a
      quarter of a token, a ``PUT`` (launch or stop) four tokens, and large bodies more. A user whose bucket
      is empty waits for tokens and is not refused.
    - A response is delayed by one to two seconds if it is a 429, or a refusal (400 to 428) over the limit of
      its sender or of the process.

    A delayed request occupies a connection but no thread. A client with delayed responses sends less than
    one request per second and connection, and not on all connections at the same moment.

    :param per_second: tokens per second of each user, and undelayed refusals per second of the process; one
        sender may use a tenth of the refusals. Bursts may be ten times as large. 0 disables the limit.
    """

    def __init__(self, per_second: float) -> None:
        self._waiting: dict[str, tuple[asyncio.Semaphore, int]] = {}
        self._users = TokenBuckets(per_second)
        self._refused = TokenBuckets(per_second)
        self._refused_by_sender = TokenBuckets(per_second * _SENDER_SHARE)

    @asynccontextmanager
    async def admit(self, sender: Sender) -> AsyncIterator[None]:
        """Wait until a request of this sender may be served. Unknown senders do not wait."""
        name = sender.name
        if not name:
            yield
            return
        semaphore, count = self._waiting.get(name) or (asyncio.Semaphore(sender.max_concurrency), 0)
        self._waiting[name] = (semaphore, count + 1)
        try:
            async with semaphore:
                if sender.is_user:
                    await asyncio.sleep(self._users.seconds_until(name))
                yield
        finally:
            semaphore, count = self._waiting.pop(name)
            if count > 1:
                self._waiting[name] = (semaphore, count - 1)

    def charge(self, sender: Sender, exchange: Exchange) -> None:
        """Take the tokens that a user's request costs."""
        if not sender.is_user:
            return
        tokens = _PUT_TOKENS if exchange.method == "PUT" else 1
        if exchange.status == _NOT_MODIFIED:
            tokens = _POLL_TOKENS
        tokens += exchange.received_bytes // _TOKEN_BYTES_IN + exchange.sent_bytes // _TOKEN_BYTES_OUT
        self._users.use(sender.name, tokens)

    async def delay_response(self, sender: Sender, exchange: Exchange) -> None:
        """Wait if the response has to be delayed."""
        if exchange.status == _TOO_MANY or (
            exchange.status in _REFUSED and self._exceeds_limit(sender, exchange)
        ):
            await asyncio.sleep(_RETRY_AFTER_SECONDS * random.uniform(1, 2))  # noqa: S311 - no secret

    def _exceeds_limit(self, sender: Sender, exchange: Exchange) -> bool:
        """Count a refusal, and return whether it exceeds a limit. Delayed refusals are not counted."""
        key = sender.name
        if self._refused.is_used_up("") or (key and self._refused_by_sender.is_used_up(key)):
            return True
        self._refused.use("", 1 + exchange.received_bytes // _TOKEN_BYTES_OUT)
        if key:
            self._refused_by_sender.use(key)
        return False
