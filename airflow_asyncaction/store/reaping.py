# SPDX-License-Identifier: Apache-2.0
"""Ends actions that nobody watches: whose task instance is over, or gone, without having seen their end.

It happens when a worker is killed together with its task, and there is no next try that would take over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState
from sqlalchemy import Connection, and_, bindparam, or_, select

from airflow_asyncaction.protocol.actions import Action, Completion, State
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Abandon
from airflow_asyncaction.store import rows
from airflow_asyncaction.store.actions import Actions, Unseal
from airflow_asyncaction.store.models import action_table

_BATCH = 500
# Running, or on its way to the process in which it will go on.
_WATCHING = frozenset(
    {
        TaskInstanceState.RUNNING,
        TaskInstanceState.DEFERRED,
        TaskInstanceState.SCHEDULED,
        TaskInstanceState.QUEUED,
        TaskInstanceState.RESTARTING,
    }
)

_columns = action_table.c
_ENDS = [state.value for state in State if state.is_end]
_WAITING = [state.value for state in State if state.is_waiting]  # nothing is launched yet
_MAY_BE_UNWATCHED = (  # as Action.is_done says, in SQL
    select(
        _columns.id,
        _columns.ti_id,
        _columns.type,
        _columns.dag_id,
        _columns.run_id,
        _columns.task_id,
        _columns.map_index,
    )
    .where(
        _columns.updated_at < bindparam("before"),
        _columns.state.not_in(_WAITING),
        or_(
            _columns.state.not_in(_ENDS),
            and_(
                _columns.fenced.is_(False),
                _columns.completion != Completion.REPORT.value,
                _columns.exit.is_(None),
            ),
        ),
    )
    .order_by(_columns.id)
    .limit(_BATCH)
)
_task_columns = TaskInstance.__table__.c


@dataclass(frozen=True)
class Unwatched:
    """An action that nobody watches."""

    id: JobId
    type: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int


def find_unwatched(actions: Actions, *, older_than: timedelta, now: datetime) -> Iterator[Unwatched]:
    """Yield the actions that nobody watches, and of which nothing was heard for so long.

    :param older_than: a task that has just ended may still be about to tell how
    """
    query, before, last_id = _MAY_BE_UNWATCHED, now - older_than, None
    while True:
        with actions.transaction() as connection:
            rows = connection.execute(
                query if last_id is None else query.where(_columns.id > last_id), {"before": before}
            ).all()
            watched = _watched(connection, [row.ti_id for row in rows if row.ti_id is not None])
        yield from (_unwatched(row) for row in rows if row.ti_id not in watched)
        if len(rows) < _BATCH:
            return
        last_id = rows[-1].id


def reap(actions: Actions, unwatched: Unwatched, now: datetime) -> State:
    """End an action; its job, if it still runs, is told to stop (410). Returns the state it has then."""
    return actions.end(unwatched.id, Abandon(), now).state


def find_over(
    actions: Actions, action_ids: Sequence[JobId], *, older_than: timedelta, now: datetime
) -> set[JobId]:
    """Return those of the actions that are over, and of which nothing was heard for so long.

    Not among them are those that succeeded by a report alone: what they started may go on.
    """
    over = set()
    for start in range(0, len(action_ids), _BATCH):
        query = rows.SELECT.where(_columns.id.in_(action_ids[start : start + _BATCH]))
        with actions.transaction() as connection:
            for row in connection.execute(query):
                action = rows.to_action(row)
                goes_on = action.completion is Completion.REPORT and action.state is State.SUCCESS
                if action.is_done and not goes_on and row.updated_at < now - older_than:
                    over.add(action.id)
    return over


def reap_if_unwatched(actions: Actions, action_id: JobId, prove: Unseal[object], now: datetime) -> Action:
    """End an action unless its task watches it, for whoever holds its task key; return it.

    :raises ActionNotFound: there is no such action, and ``prove`` does not mind
    """
    with actions.locked(action_id, prove) as (connection, row, _):
        is_watched = row.ti_id is not None and bool(_watched(connection, [row.ti_id]))
        action = rows.to_action(row)
    return action if is_watched or action.is_done else actions.end(action_id, Abandon(), now)


def _watched(connection: Connection, ti_ids: list[str]) -> set[str]:
    """Return those of the task instances that watch their action."""
    query = select(_task_columns.id).where(
        _task_columns.id.in_([UUID(ti_id) for ti_id in ti_ids]), _task_columns.state.in_(_WATCHING)
    )
    return {str(UUID(str(ti_id))) for ti_id in connection.scalars(query)}


def _unwatched(row: Any) -> Unwatched:
    return Unwatched(row.id, row.type, row.dag_id, row.run_id, row.task_id, row.map_index)
