# SPDX-License-Identifier: Apache-2.0
"""Unclaimed successes: jobs that succeeded after the try of their task had failed.

This happens while workers cannot reach the API server: Airflow fails the try, but the job keeps running.
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
_UUID7_TIME_SHIFT = 80  # the first 48 of 128 bits are milliseconds since 1970
_ENDING = ("exit", "abandon")
"""Kinds of messages that complete an action whose job has reported its end."""


def is_unclaimed_success(
    connection: Connection, action: Action, row: Row[Any], task: Row[Any], spec: ActionSpec
) -> bool:
    """Return whether a retry adopts the success of an action instead of running the job again.

    It does if the action ended in SUCCESS after its try had failed, nobody asked it to stop, the
    specification is the same, and Airflow itself retries the task. If a user clears the task, the job must
    run again.

    The time of the failure is read from the UUIDv7 that Airflow then assigned to the retry. The recorded end
    of a try comes from the clock of a worker, which may be wrong.

    :param task: running task instance
    """
    if action.state is not State.SUCCESS or action.stop_reason is not None:
        return False
    if any(getattr(action, name) != getattr(spec, name) for name in _SAME):
        return False
    if not task_instances.has_failed_try(
        connection, row.ti_id, try_number=task.try_number - 1, max_tries=task.max_tries
    ):
        return False
    done_at = _find_done_at(connection, action)
    return done_at is not None and done_at > _created_at(task.id)


def _created_at(uuid7: UUID) -> datetime:
    return datetime.fromtimestamp((uuid7.int >> _UUID7_TIME_SHIFT) / 1000, UTC)


def _find_done_at(connection: Connection, action: Action) -> datetime | None:
    if action.completion is Completion.REPORT:
        return action.ended_at
    query = select(func.min(_reports.received_at)).where(
        _reports.action_id == action.id, _reports.kind.in_(_ENDING)
    )
    done_at: datetime | None = connection.scalar(query)
    return done_at
