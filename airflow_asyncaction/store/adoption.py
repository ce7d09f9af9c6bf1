# SPDX-License-Identifier: Apache-2.0
"""Jobs that are left to the next try of their task, which adopts them when it registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from airflow_asyncaction.airflow_internals.server import task_instances
from airflow_asyncaction.airflow_internals.server.task_instances import TaskInstanceState
from airflow_asyncaction.protocol.actions import StopReason
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Abandon, Message, Stop
from airflow_asyncaction.store.models import action_table

_columns = action_table.c
_WITH_UNFINISHED_TASK = (
    select(_columns.id)
    .join(task_instances.table, task_instances.matches(_columns))
    .where(_columns.id.in_(bindparam("action_ids", expanding=True)), task_instances.is_unfinished())
)


def to_be_adopted(connection: Connection, unwatched: Sequence[Row[Any]]) -> set[JobId]:
    """Return the actions whose job the task's next process is going to adopt, as registration does.

    :param unwatched: actions whose own task instance does not run any more
    """
    adoptable = [row.id for row in unwatched if row.adoptable and row.deferral is None and row.verb is None]
    if not adoptable:
        return set()
    return set(connection.scalars(_WITH_UNFINISHED_TASK, {"action_ids": adoptable}))


def is_left_to_next_try(connection: Connection, row: Row[Any], message: Message) -> bool:
    """Tell whether the job is not the sender's to stop, though it is killed, since the next try adopts it.

    Where the scheduler gave a try up, another task instance stands in its place; where a worker shuts down,
    the task instance is still running. Who clears or marks a task changes its state before its process is
    killed. Who deletes a run, or a task of it, leaves nothing that could adopt the job.
    """
    if not row.adoptable or row.deferral is not None or message not in (Stop(StopReason.KILLED), Abandon()):
        return False
    task = task_instances.find(connection, row.ti_id)
    if task is None:
        return row.id in to_be_adopted(connection, [row])
    return bool(task.state == TaskInstanceState.RUNNING and task.try_number <= task.max_tries)
