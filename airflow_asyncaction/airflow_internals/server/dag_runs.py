# SPDX-License-Identifier: Apache-2.0
"""Dag runs: their table, and how a command creates one, or marks it or its task as failed.

Uses: ``airflow.models.dagrun.DagRun``, ``airflow.api.common`` (``trigger_dag``,
``set_dag_run_state_to_failed``), ``SerializedDAG.set_task_instance_state``,
``airflow.models.dagbag.DBDagBag``, ``airflow.utils.session``, ``airflow.utils.state``,
``airflow.utils.types``.

Checked with Airflow 3.3.2.

Functions that change something are for commands, which have the database and no API server: they do what
``airflow dags trigger`` and Airflow's own routes do. The API server calls Airflow's public REST API instead,
with the rights of the user.
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
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import Column, ColumnCollection, ColumnElement, Table, and_
from sqlalchemy.orm import Session

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

    :param coordinates: what ``dag_id`` and ``run_id`` must equal: columns of another table, or parameters
    """
    return and_(table.c.dag_id == coordinates["dag_id"], table.c.run_id == coordinates["run_id"])


def create_if_missing(
    *, dag_id: str, run_id: str, conf: dict[str, Any], run_after: datetime, user: str
) -> bool:
    """Create a Dag run from a command, and return whether it was missing.

    :param user: name of the user who triggers it
    :raises airflow.exceptions.DagNotFound: Airflow does not know the Dag
    :raises ValueError: Airflow refuses; a Param is invalid, for example
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
    """Mark a Dag run as failed, and its unfinished tasks with it; does nothing if it is missing."""

    def fail(dag: SerializedDAG, session: Session) -> None:
        set_dag_run_state_to_failed(dag=dag, run_id=run_id, commit=True, session=session)

    _change(dag_id, run_id, fail)


def mark_task_failed(dag_id: str, run_id: str, task_id: str, map_index: int) -> None:
    """Mark a task instance as failed, so that it is not retried; does nothing if it is missing."""

    def fail(dag: SerializedDAG, session: Session) -> None:
        if dag.has_task(task_id):
            dag.set_task_instance_state(
                task_id=task_id,
                map_indexes=[map_index],
                run_id=run_id,
                state=TaskInstanceState.FAILED,
                session=session,
            )

    _change(dag_id, run_id, fail)


def _change(dag_id: str, run_id: str, change: Callable[[SerializedDAG, Session], None]) -> None:
    """Change a Dag run, if it exists, by the version of the Dag that the run has."""
    with create_session() as session:
        for run in DagRun.find(dag_id=dag_id, run_id=run_id, session=session):
            dag = DBDagBag().get_dag_for_run(run, session=session)
            if dag is not None:
                change(dag, session)
