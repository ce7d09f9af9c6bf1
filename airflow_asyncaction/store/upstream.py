# SPDX-License-Identifier: Apache-2.0
"""Upstream check: whether an action may read the files of another task in its Dag run."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Connection, Row, bindparam, select

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store.models import action_table

_TASK = select(action_table.c.dag_id, action_table.c.run_id, action_table.c.task_id).where(
    action_table.c.id == bindparam("action_id")
)


def is_upstream(connection: Connection, action_id: JobId, of: JobId) -> bool:
    """Return whether the task of an action is upstream of another action's task in the same Dag run."""
    task = _task(connection, action_id)
    downstream = _task(connection, of)
    if task is None or downstream is None:
        return False
    if (task.dag_id, task.run_id) != (downstream.dag_id, downstream.run_id):
        return False
    from airflow_asyncaction.airflow_internals.server import dags  # 17 MiB, which few gateways need

    upstream = dags.upstream_tasks(connection, downstream.dag_id, downstream.run_id, downstream.task_id)
    return task.task_id in upstream


def _task(connection: Connection, action_id: JobId) -> Row[Any] | None:
    row = connection.execute(_TASK, {"action_id": action_id}).one_or_none()
    return cast("Row[Any] | None", row)
