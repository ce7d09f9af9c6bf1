# SPDX-License-Identifier: Apache-2.0
"""Dag runs: their table, and functions with which commands create them or mark them as failed.

Uses: ``airflow.models.dagrun.DagRun``, ``airflow.api.common`` (``trigger_dag``,
``set_dag_run_state_to_failed``), ``SerializedDAG.set_task_instance_state``,
``airflow.models.dagbag.DBDagBag``, ``airflow.models.taskinstance.TaskInstance.set_state``,
``airflow.utils.session``, ``airflow.utils.state``, ``airflow.utils.types``.

Checked with Airflow 3.3.2 and 3.4.0b2.

Only commands call the functions that make changes: they can access the database, but not an API server. These
functions do the same as ``airflow dags trigger`` and Airflow's own routes. The API server calls Airflow's
public REST API instead, on behalf of the user.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

from airflow.api.common.mark_tasks import set_dag_run_state_to_failed
from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import DagRunAlreadyExists
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import Column, ColumnCollection, ColumnElement, Table, and_, literal, select
from sqlalchemy.orm import Session

from airflow_asyncaction.airflow_internals.server import task_instances

__all__ = [
    "DagRunState",
    "create_if_missing",
    "mark_failed",
    "mark_task_failed",
    "matches",
    "row_id",
    "state",
    "table",
]

table: Table = cast("Table", DagRun.__table__)
row_id: Column[Any] = table.c.id
state: Column[Any] = table.c.state


def matches(coordinates: ColumnCollection[str, Any] | dict[str, ColumnElement[Any]]) -> ColumnElement[bool]:
    """Return the condition for one Dag run.

    :param coordinates: columns of another table, or parameters, that ``dag_id`` and ``run_id`` must equal
    """
    return and_(table.c.dag_id == coordinates["dag_id"], table.c.run_id == coordinates["run_id"])


def create_if_missing(
    *, dag_id: str, run_id: str, conf: dict[str, Any], run_after: datetime, user: str
) -> bool:
    """Create a Dag run from a command, and return whether it was missing.

    :param user: name of the user who triggers it
    :raises airflow.exceptions.DagNotFound: Airflow does not know the Dag
    :raises ValueError: Airflow refuses the run, for example because a Param is invalid
    """
    with suppress(DagRunAlreadyExists):
        trigger_dag(
            dag_id=dag_id,
            triggered_by=DagRunTriggeredByType.CLI,
            triggering_user_name=user,
            run_id=run_id,
            conf=conf,
            run_after=run_after,
        )
        return True
    return False


def mark_failed(dag_id: str, run_id: str) -> None:
    """Mark a Dag run and its unfinished tasks as failed, if it exists."""

    def fail(dag: SerializedDAG, session: Session) -> None:
        set_dag_run_state_to_failed(dag=dag, run_id=run_id, commit=True, session=session)

    _change(dag_id, run_id, fail)


def mark_task_failed(dag_id: str, run_id: str, task_id: str, *, map_index: int, iteration: int) -> None:
    """Mark a task instance as failed, if it exists, so that it is not retried."""

    def fail(dag: SerializedDAG, session: Session) -> None:
        if iteration >= 0:
            # The method below selects tasks by their index alone, whose meaning differs between loops.
            _fail_iteration(session, dag_id, run_id, task_id, map_index, iteration)
        elif dag.has_task(task_id):
            dag.set_task_instance_state(
                task_id=task_id,
                map_indexes=[map_index],
                run_id=run_id,
                state=TaskInstanceState.FAILED,
                session=session,
            )

    _change(dag_id, run_id, fail)


def _fail_iteration(
    session: Session, dag_id: str, run_id: str, task_id: str, map_index: int, iteration: int
) -> None:
    coordinates = {
        "dag_id": dag_id,
        "run_id": run_id,
        "task_id": task_id,
        "map_index": map_index,
        "iteration": iteration,
    }
    condition = task_instances.matches({name: literal(value) for name, value in coordinates.items()})
    for instance in session.scalars(select(TaskInstance).where(condition).with_for_update(of=TaskInstance)):
        instance.set_state(TaskInstanceState.FAILED, session=session)


def _change(dag_id: str, run_id: str, change: Callable[[SerializedDAG, Session], None]) -> None:
    """Change a Dag run, if it exists, using the Dag version of the run."""
    with create_session() as session:
        for run in DagRun.find(dag_id=dag_id, run_id=run_id, session=session):
            dag = DBDagBag().get_dag_for_run(run, session=session)
            if dag is not None:
                change(dag, session)
