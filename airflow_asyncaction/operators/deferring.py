# SPDX-License-Identifier: Apache-2.0
"""How a task is deferred: who can complete it then, and for how long it may wait."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf

from airflow_asyncaction.protocol.tasks import NeedsWorker

_XCOM_BACKEND = "airflow.sdk.execution_time.xcom.BaseXCom"


def needs_worker(operator: BaseOperator, *, reads_log: bool) -> NeedsWorker:
    """Return what a deferred task needs a worker for when its job has succeeded.

    Airflow does these on workers alone: asset events, callbacks on success, hooks after execution, listeners,
    a custom XCom backend, results that are split into several XComs or that tasks are mapped over.

    :param reads_log: whether whoever completes the task has the job's log to read first
    """
    needs: tuple[Any, ...] = (
        operator.outlets,
        operator.on_success_callback,
        getattr(operator, "_post_execute_hook", None),
        getattr(operator, "multiple_outputs", False),
        getattr(operator, "returns_dag_result", False),
        next(iter(operator.iter_mapped_dependants()), None),
        conf.get("core", "xcom_backend", fallback=_XCOM_BACKEND) != _XCOM_BACKEND,
        _has_listeners(),
    )
    if any(needs):
        return NeedsWorker.ALWAYS
    return NeedsWorker.FOR_LOGS if reads_log else NeedsWorker.ON_FAILURE


def _has_listeners() -> bool:
    from airflow.sdk.listener import get_listener_manager

    return bool(get_listener_manager().has_listeners)


def time_left(execution_timeout: timedelta | None, context: Mapping[str, Any]) -> timedelta | None:
    """Return how much of its ``execution_timeout`` a task has left; at least some, to be stopped in order."""
    if execution_timeout is None:
        return None
    elapsed: timedelta = datetime.now(UTC) - context["ti"].start_date
    return max(execution_timeout - elapsed, timedelta(seconds=1))
