# SPDX-License-Identifier: Apache-2.0
"""Reconciler: a background thread of the API server for actions that no request drives forward.

It completes deferred tasks whose timeout expired or whose API server died, queues or ends actions that wait
for their Dag run, and ends orphaned actions. If metrics are on, it counts the actions that have not ended.
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
from airflow_asyncaction.store.state_counts import count_active

log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 3.0
_COUNT_INTERVAL_SECONDS = 10.0
_REAP_INTERVAL_SECONDS = 10.0


class Reconciler:
    """Thread that polls the database for actions that are due.

    Each API server process has one. They do not interfere, since each locks the action that it changes.

    :param reap_after: how long an action must be orphaned before it is ended; zero never ends any
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
        self._thread = threading.Thread(target=self._run, name="asyncaction-reconciler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait until it has ended."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_seconds):
            for step in (self._complete_due, self._reconcile_queued, self._reap, self._count_active):
                try:
                    step()
                except StoreUnavailable:
                    if self._reaper is not None:
                        self._reaper.restart_grace()  # no task could report during the outage
                    log.warning("The database is unavailable; retrying in %g s", self._interval_seconds)
                except Exception:  # the thread must not end: tasks depend on it
                    log.exception("Reconciliation failed in %s; retrying", step.__name__.removeprefix("_"))

    def _complete_due(self) -> None:
        self._actions.complete_due(datetime.now(UTC))

    def _reconcile_queued(self) -> None:
        launching.reconcile_queued(self._actions, datetime.now(UTC))

    def _reap(self) -> None:
        now = time.monotonic()
        if self._reaper is not None and now - self._reaped_at >= self._reap_interval_seconds:
            self._reaped_at = now
            self._reaper.scan(datetime.now(UTC), clock_seconds=now)

    def _count_active(self) -> None:
        now = time.monotonic()
        if metrics.is_enabled() and now - self._counted_at >= _COUNT_INTERVAL_SECONDS:
            self._counted_at = now
            metrics.record_active(count_active(self._actions.database))
