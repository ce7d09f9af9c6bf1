# SPDX-License-Identifier: Apache-2.0
"""Upstream: an action may read the files of upstream tasks in its Dag run."""

from __future__ import annotations

from typing import Any, cast

from airflow.models.dagbag import CachedDBDagBag
from airflow.models.dagrun import DagRun
from sqlalchemy import Connection, Row, bindparam, select
from sqlalchemy.orm import Session

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store.models import action_table

_TASK = select(action_table.c.dag_id, action_table.c.run_id, action_table.c.task_id).where(
    action_table.c.id == bindparam("action_id")
)

_dags = CachedDBDagBag(
    load_op_links=False, cache_size=64, cache_ttl=3600, stats_prefix="asyncaction.dag_bag"
)  # the defaults of the API server's own


def is_upstream(connection: Connection, action_id: JobId, of: JobId) -> bool:
    """Return whether the task of an action is upstream of another action's task in the same Dag run."""
    task = _task(connection, action_id)
    downstream = _task(connection, of)
    if task is None or downstream is None:
        return False
    if (task.dag_id, task.run_id) != (downstream.dag_id, downstream.run_id):
        return False
    return task.task_id in _upstream_tasks(connection, downstream)


def _task(connection: Connection, action_id: JobId) -> Row[Any] | None:
    row = connection.execute(_TASK, {"action_id": action_id}).one_or_none()
    return cast("Row[Any] | None", row)


def _upstream_tasks(connection: Connection, task: Row[Any]) -> set[str]:
    """Return the upstream tasks of a task, in the Dag version of the run."""
    with Session(bind=connection) as session:  # joins the connection's transaction
        run = session.scalar(select(DagRun).where(DagRun.dag_id == task.dag_id, DagRun.run_id == task.run_id))
        dag = None if run is None else _dags.get_dag_for_run(run, session)
        if dag is None or not dag.has_task(task.task_id):
            return set()
        return set(dag.get_task(task.task_id).get_flat_relative_ids(upstream=True))
