# SPDX-License-Identifier: Apache-2.0
"""Adoption: predicts whether the next try of a task will adopt a running job when it registers."""

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
    .select_from(action_table)
    .join(task_instances.table, task_instances.matches(_columns))
    .where(_columns.id.in_(bindparam("action_ids", expanding=True)), task_instances.is_unfinished())
)


def to_be_adopted(connection: Connection, unwatched: Sequence[Row[Any]]) -> set[JobId]:
    """Return the actions whose jobs the next try of their task will adopt, by the rules of registration.

    :param unwatched: actions whose task instance no longer runs
    """
    adoptable = [row.id for row in unwatched if row.adoptable and row.deferral is None and row.verb is None]
    if not adoptable:
        return set()
    return set(connection.scalars(_WITH_UNFINISHED_TASK, {"action_ids": adoptable}))


def is_left_to_next_try(connection: Connection, row: Row[Any], message: Message) -> bool:
    """Return whether the next try adopts the job of a killed task process, which therefore must not stop it.

    If the scheduler failed the try, another task instance has replaced it. If the worker shuts down, the task
    instance is still running. If a user clears or marks a task, its state changes before its process is
    killed. If a user deletes a run or one of its task instances, no try is left to adopt the job.
    """
    if not row.adoptable or row.deferral is not None or message not in (Stop(StopReason.KILLED), Abandon()):
        return False
    task = task_instances.find(connection, row.ti_id)
    if task is None:
        return row.id in to_be_adopted(connection, [row])
    return bool(task.state == TaskInstanceState.RUNNING and task.try_number <= task.max_tries)
