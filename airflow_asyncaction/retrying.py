# SPDX-License-Identifier: Apache-2.0
"""Retry policy: which errors of a server are transient, and how long to wait before the next attempt.

For requests to the API server from inside Airflow, on tenacity. Jobs have only the standard library: see
``airflow_asyncaction.job.transport``. Requests to a cluster have ``runners.pods.backoff``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_before_delay,
    stop_never,
)

from airflow_asyncaction.exceptions import ServerError, ServerUnreachable
from airflow_asyncaction.protocol.responses import is_worth_resending

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 15.0

_MOST_DOUBLINGS = 32

Warn = Callable[..., object]
"""Logs an error that will be retried, like ``Logger.warning``."""


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed if it is resent."""
    return isinstance(error, ServerUnreachable) or (
        isinstance(error, ServerError) and is_worth_resending(error.status, error.code)
    )


def is_outage(error: BaseException) -> bool:
    """Return whether an error says nothing about the action, so its followers keep polling.

    This is any transient error, and any answer that is not from our routes: while the API server restarts,
    a proxy or an Airflow without this plugin may answer. 413 is always final.
    """
    if not isinstance(error, ServerError) or error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return False
    return error.status == 0 or not error.code or is_transient(error)


def jittered(seconds: float) -> float:
    """Return a poll interval that is up to a fifth shorter or longer."""
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret


def pause_seconds(
    failures: int,
    *,
    first_seconds: float = FIRST_PAUSE_SECONDS,
    longest_seconds: float = LONGEST_PAUSE_SECONDS,
    jitter: bool = True,
) -> float:
    """Return how long to pause after a number of failures in a row: exponential backoff.

    The pause doubles with each failure.

    :param jitter: shorten each pause at random, down to its half, so that many clients do not retry at once
    """
    doublings = min(max(failures, 1) - 1, _MOST_DOUBLINGS)
    pause = min(first_seconds * 2.0**doublings, longest_seconds)
    return pause * random.uniform(0.5, 1.0) if jitter else pause  # noqa: S311 - not a secret


class ExponentialBackoff:
    """Counts failures in a row, and returns the :func:`pause_seconds` after each."""

    def __init__(self, first_seconds: float, longest_seconds: float, *, jitter: bool = False) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._jitter = jitter
        self._failures = 0

    def reset(self) -> None:
        """Begin with the first pause again, after a success."""
        self._failures = 0

    def next_pause(self) -> float:
        """Return the next pause, in seconds."""
        self._failures += 1
        return pause_seconds(
            self._failures,
            first_seconds=self._first_seconds,
            longest_seconds=self._longest_seconds,
            jitter=self._jitter,
        )


def backoff(
    *, first_seconds: float = FIRST_PAUSE_SECONDS, longest_seconds: float = LONGEST_PAUSE_SECONDS
) -> Callable[[RetryCallState], float]:
    """Return a tenacity wait: :func:`pause_seconds`, or the server's Retry-After if that is longer."""

    def wait(state: RetryCallState) -> float:
        pause = pause_seconds(
            state.attempt_number, first_seconds=first_seconds, longest_seconds=longest_seconds
        )
        error = state.outcome.exception() if state.outcome else None
        return max(pause, error.retry_after_seconds) if isinstance(error, ServerError) else pause

    return wait


def retrying(patience: timedelta, warn: Warn) -> Retrying:
    """Return a tenacity retrier of transient errors for code that may block its thread.

    :param patience: retry as long as the next attempt starts within this time, then reraise; 0: never
    """
    return Retrying(
        retry=retry_if_exception(is_transient),
        wait=backoff(),
        stop=stop_before_delay(patience),
        before_sleep=lambda state: _warn(warn, state),
        reraise=True,
    )


def async_retrying(patience: timedelta | None, warn: Warn, *, longest_seconds: float) -> AsyncRetrying:
    """Return a tenacity retrier of outages (:func:`is_outage`) for triggers. It warns once.

    :param patience: as for :func:`retrying`; ``None``: until the server answers
    """

    def warn_once(state: RetryCallState) -> None:
        if state.attempt_number == 1:
            _warn(warn, state)

    return AsyncRetrying(
        retry=retry_if_exception(is_outage),
        wait=backoff(first_seconds=2 * FIRST_PAUSE_SECONDS, longest_seconds=longest_seconds),
        stop=stop_never if patience is None else stop_before_delay(patience),
        before_sleep=warn_once,
        reraise=True,
    )


def _warn(warn: Warn, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    warn("%s Retrying in %.1f s.", as_sentence(str(error)), state.upcoming_sleep)


def as_sentence(text: str) -> str:
    """Return a text with one full stop at its end."""
    return f"{text.rstrip('.')}."
