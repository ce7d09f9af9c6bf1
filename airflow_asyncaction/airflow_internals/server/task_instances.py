# SPDX-License-Identifier: Apache-2.0
"""Task instances: coordinates, live rows, and tries, as SQL expressions over Airflow's own tables.

Uses: ``airflow.models.taskinstance.TaskInstance``, ``airflow.utils.state``,
``airflow.models.taskinstancehistory.TaskInstanceHistory``.

Checked with Airflow 3.3.2.

*Coordinates* identify a task across all its tries: ``dag_id``, ``run_id``, ``task_id`` and
``map_index``. Each try has an id (``ti_id``, UUIDv7) of its own.

*The live row* is the one that the scheduler works with. In Airflow 3.3, ``task_instance`` contains only live
rows: when a try is retried or cleared, its row gets a new id, and a copy with the old id goes to
``task_instance_history``. So :func:`is_live` is always true, an archived try cannot be found by its id, and
a failed try is looked up in the history. Airflow 3.4 keeps archived tries in ``task_instance``, so all
queries, here and elsewhere, state which rows they select.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.utils.state import State, TaskInstanceState
from sqlalchemy import (
    Column,
    ColumnCollection,
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    bindparam,
    or_,
    select,
    true,
)

__all__ = [
    "FINISHED",
    "TaskInstanceState",
    "find",
    "has_failed_try",
    "is_live",
    "is_unfinished",
    "map_index",
    "matches",
    "rendered_map_index",
    "row_id",
    "state",
    "table",
]

table: Table = cast("Table", TaskInstance.__table__)

_columns = table.c
row_id: Column[Any] = _columns.id
state: Column[Any] = _columns.state
rendered_map_index: Column[Any] = _columns.rendered_map_index
map_index: Column[Any] = _columns.map_index
"""The map index that users see: -1 for a task that is not mapped."""

_coordinates: Mapping[str, ColumnElement[Any]] = {
    "dag_id": _columns.dag_id,
    "run_id": _columns.run_id,
    "task_id": _columns.task_id,
    "map_index": map_index,
}

FINISHED = State.finished
"""States in which no further try follows; ``up_for_retry`` is not among them."""

_tries = cast("Table", TaskInstanceHistory.__table__).c


def is_live() -> ColumnElement[bool]:
    """Return the condition for rows that the scheduler works with, as opposed to archived tries."""
    return true()


def matches(
    coordinates: Mapping[str, ColumnElement[Any]] | ColumnCollection[str, Any],
) -> ColumnElement[bool]:
    """Return the condition for the live row of a task.

    :param coordinates: columns of another table, or parameters, that the coordinates must equal, by name
    """
    return and_(*(column == coordinates[name] for name, column in _coordinates.items()), is_live())


def is_unfinished() -> ColumnElement[bool]:
    """Return the condition for task instances that are running or may still run."""
    return or_(state.is_(None), state.not_in(FINISHED))


_BY_ID = select(
    row_id,
    *(column.label(name) for name, column in _coordinates.items()),
    _columns.try_number,
    _columns.max_tries,
    state,
).where(row_id == bindparam("ti_id"), is_live())


def find(connection: Connection, ti_id: str) -> Row[Any] | None:
    """Return the live row of a try: id, coordinates, try_number, max_tries and state.

    Return ``None`` for a try that the scheduler has archived.
    """
    row = connection.execute(_BY_ID, {"ti_id": UUID(ti_id)}).one_or_none()
    return cast("Row[Any] | None", row)


def has_failed_try(connection: Connection, ti_id: str, *, try_number: int, max_tries: int) -> bool:
    """Return whether an earlier try has failed, and Airflow itself retries the task.

    :param try_number: number of the earlier try
    :param max_tries: maximum of the current try; clearing a task raises it
    """
    query = select(_tries.task_instance_id).where(
        _tries.task_instance_id == UUID(ti_id),
        _tries.try_number == try_number,
        _tries.state == TaskInstanceState.FAILED,
        _tries.max_tries == max_tries,
    )
    return connection.execute(query).one_or_none() is not None
