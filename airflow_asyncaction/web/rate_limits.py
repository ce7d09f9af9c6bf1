# SPDX-License-Identifier: Apache-2.0
"""Budgets: limit the requests and bytes a second that the job and the task of an action may send.

Every request that is proven counts, also one that is refused. An unproven request counts for
nobody: else anybody could use up the budget of a job.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import suppress
from datetime import UTC, datetime

from flask import Flask, Response, g, request
from werkzeug.exceptions import TooManyRequests

from airflow_asyncaction.exceptions import StoreUnavailable
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.signing import JOB_ID_HEADER
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.actions import Actions

RETRY_AFTER_SECONDS = 1

_BURST_SECONDS = 10
_MAX_BUCKETS = 10_000
_WARN_EVERY_SECONDS = 60
_WARNING = "The job has used up its request budget: the server answers with 429 until it sends less"
_SENDERS = {"jobs": "job", "files": "job", "tasks": "task", "task_files": "task"}
"""Who sends the requests to each blueprint that is signed: a job must not use up the budget of its task."""


class TokenBuckets:
    """A token bucket per key, in memory: each process of the API server has its own.

    :param per_second: tokens that each bucket gains; 0: no limit. A bucket holds ten seconds' worth,
        one at the least.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def is_used_up(self, key: str) -> bool:
        """Tell whether a bucket is empty."""
        if self._per_second <= 0:
            return False
        with self._lock:
            return self._tokens(key, time.monotonic()) < 1

    def seconds_until(self, key: str) -> float:
        """Return how long it takes until a bucket has a token; 0 if it has one."""
        if self._per_second <= 0:
            return 0
        with self._lock:
            missing = 1 - self._tokens(key, time.monotonic())
        return max(0.0, missing / self._per_second)

    def use(self, key: str, count: float = 1) -> None:
        """Take tokens: more than there are, if need be, which have to come back first."""
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


def limit_requests(app: Flask, actions: Actions, settings: Settings) -> None:
    """Answer a job or task that has used its budget up with 429, before its request is read.

    A line in the action's log says so of its job, once a minute.
    """
    requests = TokenBuckets(settings.max_requests_per_second)
    octets = TokenBuckets(settings.max_bytes_per_second)
    warnings = TokenBuckets(1 / _WARN_EVERY_SECONDS)

    @app.before_request
    def check() -> None:
        sender = _SENDERS.get(request.blueprint or "")
        if sender is None:
            return
        key = f"{sender} {_action_id()}"
        if requests.is_used_up(key):
            raise _too_many("max_requests_per_second", settings.max_requests_per_second)
        if octets.is_used_up(key):
            raise _too_many("max_bytes_per_second", settings.max_bytes_per_second)

    @app.after_request
    def spend(response: Response) -> Response:
        sender, size_bytes = _SENDERS.get(request.blueprint or ""), g.get("proven_bytes")
        if sender is not None and size_bytes is not None:
            key = f"{sender} {_action_id()}"
            requests.use(key)
            octets.use(key, size_bytes)
            is_used_up = requests.is_used_up(key) or octets.is_used_up(key)
            if is_used_up and sender == "job" and not warnings.is_used_up(key):
                warnings.use(key)
                with suppress(StoreUnavailable):  # the request itself was served
                    actions.warn(_action_id(), _WARNING, datetime.now(UTC))
        return response


def note_proven(size_bytes: int) -> None:
    """Let the request that is being served count: its signature is valid.

    :param size_bytes: of its body
    """
    g.proven_bytes = size_bytes


def _action_id() -> JobId:
    return JobId(request.headers.get(JOB_ID_HEADER, "").lower())


def _too_many(option: str, limit: float) -> TooManyRequests:
    said = f"The action exceeds [asyncaction] {option} ({limit:g}): send the request again, and less often"
    return TooManyRequests(said, retry_after=RETRY_AFTER_SECONDS)
