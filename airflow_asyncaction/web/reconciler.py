# SPDX-License-Identifier: Apache-2.0
"""Completes the deferred tasks that no message completes: their timeout expired, or their API server died.

It does the same for actions that wait for their Dag run, and ends actions that nobody watches. Where metrics
are on, it counts the actions that have not ended.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from datetime import UTC, datetime, timedelta

from airflow_asyncaction.exceptions import StoreUnavailable
from airflow_asyncaction.store import launching, metrics
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.reaping import Reaper
from airflow_asyncaction.store.state_counts import count_unended

log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 3.0
_COUNT_INTERVAL_SECONDS = 10.0
_REAP_INTERVAL_SECONDS = 10.0


class Completer:
    """A thread of the API server that looks, by one query, for deferred tasks that are due.

    Each API server process has one: they do not disturb each other, since each task is locked.

    :param reap_after: how long an action must have been unwatched before it is ended; zero: it never is
    """

    def __init__(
        self,
        actions: Actions,
        *,
        reap_after: timedelta = timedelta(0),
        interval_seconds: float = _INTERVAL_SECONDS,
    ) -> None:
        self._actions = actions
        self._reaper = Reaper(actions, grace=reap_after) if reap_after else None
        self._reap_interval_seconds = min(_REAP_INTERVAL_SECONDS, reap_after.total_seconds())
        self._interval_seconds = interval_seconds
        self._counted_at = self._reaped_at = -math.inf
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asyncaction-completer", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_seconds):
            for look in (self._complete_due, self._settle, self._reap, self._count_unended):
                try:
                    look()
                except StoreUnavailable:
                    self._forget_unwatched()
                    log.warning("The database does not answer: it is looked at again later")
                except Exception:  # it must go on: tasks wait for it
                    log.exception("What is due could not be looked at (%s)", look.__name__)

    def _complete_due(self) -> None:
        self._actions.complete_due(datetime.now(UTC))

    def _settle(self) -> None:
        launching.settle(self._actions, datetime.now(UTC))

    def _reap(self) -> None:
        now = time.monotonic()
        if self._reaper is not None and now - self._reaped_at >= self._reap_interval_seconds:
            self._reaped_at = now
            self._reaper.look(datetime.now(UTC), clock_seconds=now)

    def _forget_unwatched(self) -> None:
        """Give killed tasks their whole grace again: they could not report while the database was away."""
        if self._reaper is not None:
            self._reaper.forget()

    def _count_unended(self) -> None:
        now = time.monotonic()
        if metrics.are_on() and now - self._counted_at >= _COUNT_INTERVAL_SECONDS:
            self._counted_at = now
            metrics.record_unended(count_unended(self._actions))
