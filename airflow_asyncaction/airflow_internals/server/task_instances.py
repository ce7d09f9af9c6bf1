# SPDX-License-Identifier: Apache-2.0
"""Task instances: coordinates, live rows, and tries, as SQL expressions over Airflow's own tables.

Uses: ``airflow.models.taskinstance.TaskInstance``, ``airflow.utils.state``; with Airflow 3.3
``airflow.models.taskinstancehistory.TaskInstanceHistory``; with Airflow 3.4 :mod:`task_regions`.

Checked with Airflow 3.3.2 and 3.4.0b2.

*Coordinates* identify a task across all its tries: ``dag_id``, ``run_id``, ``task_id``, ``map_index`` and
``iteration``, the iteration of its loop task group (Airflow 3.4). Each try has an id (``ti_id``, UUIDv7) of
its own.

*The live row* is the one that the scheduler works with. In Airflow 3.3, ``task_instance`` contains only live
rows: when a try is retried or cleared, its row gets a new id, and a copy with the old id goes to
``task_instance_history``. Airflow 3.4 keeps archived tries in ``task_instance``, where ``working_set`` is
NULL. So all queries, here and elsewhere, state which rows they select. A try is found by its id only while
it is live, unless a function says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import State, TaskInstanceState
from sqlalchemy import (
    Column,
    ColumnCollection,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Table,
    and_,
    bindparam,
    case,
    literal,
    null,
    or_,
    select,
    true,
    type_coerce,
)

__all__ = [
    "FINISHED",
    "NO_ITERATION",
    "TaskInstanceState",
    "find",
    "has_failed_try",
    "is_live",
    "is_unfinished",
    "matches",
    "region_id",
    "rendered_map_index",
    "row_id",
    "state",
    "table",
]

NO_ITERATION = -1
"""Iteration of a task that is not in a loop."""

FINISHED = State.finished
"""States in which no further try follows; ``up_for_retry`` is not among them."""

table: Table = cast("Table", TaskInstance.__table__)

_columns = table.c
row_id: Column[Any] = _columns.id
state: Column[Any] = _columns.state
rendered_map_index: Column[Any] = _columns.rendered_map_index

_map_index: ColumnElement[int]
_iteration: ColumnElement[int]
_tries: ColumnCollection[str, Column[Any]]
region_id: ColumnElement[Any]
"""Region of a task instance, for Airflow 3.4's REST API. Clearing a task can move it to another region."""

if "region_id" in _columns:  # Airflow 3.4
    from airflow_asyncaction.airflow_internals.server import task_regions

    _map_index, _iteration = task_regions.map_index(table), task_regions.iteration(table)
    region_id, _region_index = _columns.region_id, _columns.region_index
    _is_live: ColumnElement[bool] = _columns.working_set.is_(True)
    _tries, _try_id = _columns, _columns.id
else:
    from airflow.models.taskinstancehistory import TaskInstanceHistory

    _map_index, _iteration = _columns.map_index, literal(NO_ITERATION)
    region_id, _region_index = null(), _columns.map_index
    _is_live = true()
    _tries = cast("Table", TaskInstanceHistory.__table__).c
    _try_id = _tries.task_instance_id


def is_live() -> ColumnElement[bool]:
    """Return the condition for rows that the scheduler works with, as opposed to archived tries."""
    return _is_live


def matches(
    coordinates: Mapping[str, ColumnElement[Any]] | ColumnCollection[str, Any],
) -> ColumnElement[bool]:
    """Return the condition for the live row of a task.

    :param coordinates: columns of another table, or parameters, that the coordinates must equal, by name
    """
    map_index = type_coerce(coordinates["map_index"], Integer)
    iteration = type_coerce(coordinates["iteration"], Integer)
    return and_(
        _columns.dag_id == coordinates["dag_id"],
        _columns.run_id == coordinates["run_id"],
        _columns.task_id == coordinates["task_id"],
        # Follows from the two below, which no index contains.
        _region_index == case((map_index >= 0, map_index), else_=iteration),
        _map_index == map_index,
        _iteration == iteration,
        is_live(),
    )


def is_unfinished() -> ColumnElement[bool]:
    """Return the condition for task instances that are running or may still run."""
    return or_(state.is_(None), state.not_in(FINISHED))


_BY_ID = select(
    row_id,
    _columns.dag_id,
    _columns.run_id,
    _columns.task_id,
    _map_index.label("map_index"),
    _iteration.label("iteration"),
    region_id.label("region_id"),
    _region_index.label("region_index"),
    _columns.try_number,
    _columns.max_tries,
    state,
).where(row_id == bindparam("ti_id"), is_live())


def find(connection: Connection, ti_id: str) -> Row[Any] | None:
    """Return the live row of a try: id, coordinates, region, try_number, max_tries and state.

    Return ``None`` for a try that the scheduler has archived.
    """
    return connection.execute(_BY_ID, {"ti_id": UUID(ti_id)}).one_or_none()


def has_failed_try(connection: Connection, ti_id: str, *, try_number: int, max_tries: int) -> bool:
    """Return whether an earlier, archived try has failed, and Airflow itself retries the task.

    :param try_number: number of the earlier try
    :param max_tries: maximum of the current try; clearing a task raises it
    """
    query = select(_try_id).where(
        _try_id == UUID(ti_id),
        _tries.try_number == try_number,
        _tries.state == TaskInstanceState.FAILED,
        _tries.max_tries == max_tries,
    )
    return connection.execute(query).one_or_none() is not None
