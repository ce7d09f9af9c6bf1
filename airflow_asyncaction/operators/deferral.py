# SPDX-License-Identifier: Apache-2.0
"""Deferral of a task: whether a worker must complete it, and how long it may be deferred."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator

from airflow_asyncaction.airflow_internals.worker.operators import needs_worker_after_success
from airflow_asyncaction.protocol.tasks import NeedsWorker


def needs_worker(operator: BaseOperator, *, reads_log: bool) -> NeedsWorker:
    """Return whether a deferred task needs a worker to complete it after its job succeeded.

    Only workers emit asset events, run success callbacks, post-execute hooks and listeners, use a custom XCom
    backend, and split results into several XComs or map tasks over them.

    :param reads_log: whether the job's log must be read before the task is completed
    """
    if needs_worker_after_success(operator):
        return NeedsWorker.ALWAYS
    return NeedsWorker.FOR_LOGS if reads_log else NeedsWorker.ON_FAILURE


def time_left(execution_timeout: timedelta | None, context: Mapping[str, Any]) -> timedelta | None:
    """Return the rest of a task's ``execution_timeout``: at least 1 s, enough to stop the job properly."""
    if execution_timeout is None:
        return None
    elapsed: timedelta = datetime.now(UTC) - context["ti"].start_date
    return max(execution_timeout - elapsed, timedelta(seconds=1))
