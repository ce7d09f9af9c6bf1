# SPDX-License-Identifier: Apache-2.0
"""How a task is deferred: who can complete it then, and for how long it may wait."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator

from airflow_asyncaction.airflow_internals.worker.operators import needs_worker_after_success
from airflow_asyncaction.protocol.tasks import NeedsWorker


def needs_worker(operator: BaseOperator, *, reads_log: bool) -> NeedsWorker:
    """Return what a deferred task needs a worker for when its job has succeeded.

    :param reads_log: whether whoever completes the task has the job's log to read first
    """
    if needs_worker_after_success(operator):
        return NeedsWorker.ALWAYS
    return NeedsWorker.FOR_LOGS if reads_log else NeedsWorker.ON_FAILURE


def time_left(execution_timeout: timedelta | None, context: Mapping[str, Any]) -> timedelta | None:
    """Return how much of its ``execution_timeout`` a task has left; at least some, to be stopped in order."""
    if execution_timeout is None:
        return None
    elapsed: timedelta = datetime.now(UTC) - context["ti"].start_date
    return max(execution_timeout - elapsed, timedelta(seconds=1))
