# SPDX-License-Identifier: Apache-2.0
"""Successes that no task has taken: the job ended well after its task's try had failed without it.

This happens while workers cannot reach the API server: Airflow gives the try up, but not the job.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select

from airflow_asyncaction.airflow_internals.server import task_instances
from airflow_asyncaction.protocol.actions import Action, Completion, State
from airflow_asyncaction.protocol.tasks import ActionSpec
from airflow_asyncaction.store.models import report_table

_reports = report_table.c
_SAME = ("type", "arguments", "completion", "service_name", "method")
_UUID7_TIME_SHIFT = 80  # its first 48 bits are milliseconds since 1970
_ENDING = ("exit", "abandon")
"""Kinds of messages that make an action whose job reported its end done."""


def is_untaken_success(
    connection: Connection, action: Action, row: Row[Any], task: Row[Any], spec: ActionSpec
) -> bool:
    """Tell whether a retry is to take over an action that is done, rather than to run the job again.

    It is if the action ended in SUCCESS after the try that it belongs to had failed, nobody asked it to stop,
    the same is asked for again, and Airflow retries the task by itself: whoever clears a task wants its job
    to run.

    When the try failed is read from the id that Airflow gave the retry then (UUIDv7): a worker's clock, which
    says when a try ended, may be wrong.

    :param task: the running task instance
    """
    if action.state is not State.SUCCESS or action.stop_reason is not None:
        return False
    if any(getattr(action, name) != getattr(spec, name) for name in _SAME):
        return False
    if not task_instances.has_failed_try(
        connection, row.ti_id, try_number=task.try_number - 1, max_tries=task.max_tries
    ):
        return False
    done_at = _done_at(connection, action)
    return done_at is not None and done_at > _made_at(task.id)


def _made_at(uuid7: UUID) -> datetime:
    return datetime.fromtimestamp((uuid7.int >> _UUID7_TIME_SHIFT) / 1000, UTC)


def _done_at(connection: Connection, action: Action) -> datetime | None:
    if action.completion is Completion.REPORT:
        return action.ended_at
    query = select(func.min(_reports.received_at)).where(
        _reports.action_id == action.id, _reports.kind.in_(_ENDING)
    )
    done_at: datetime | None = connection.scalar(query)
    return done_at
