# SPDX-License-Identifier: Apache-2.0
"""Reaping: ends unwatched actions, whose task instance ended or was deleted before them.

This happens if a worker is killed together with its task, and no later try adopts the action.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, bindparam, select, true

from airflow_asyncaction.airflow_internals.server import task_instances
from airflow_asyncaction.airflow_internals.server.task_instances import TaskInstanceState
from airflow_asyncaction.protocol.actions import Completion, State
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Abandon
from airflow_asyncaction.store import rows
from airflow_asyncaction.store.actions import Actions, Transition
from airflow_asyncaction.store.adoption import to_be_adopted
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.error_isolation import isolate_errors
from airflow_asyncaction.store.models import IS_UNMARKED, action_table
from airflow_asyncaction.store.proof import Unseal

log = logging.getLogger(__name__)

_BATCH = 500
_MAX_ENDS_PER_SCAN = 100
# Running, or waiting to continue in another process.
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
# A range of the index on (awaited, id): its cost does not grow with actions that are done.
_AWAITED = (
    select(
        _columns.id,
        _columns.ti_id,
        _columns.type,
        _columns.dag_id,
        _columns.run_id,
        _columns.task_id,
        _columns.map_index,
        _columns.adoptable,
        _columns.deferral,
        _columns.verb,
        _columns.updated_at,
    )
    .where(_columns.awaited == true())
    .order_by(_columns.id)
    .limit(bindparam("limit"))
)
_AWAITED_AFTER = _AWAITED.where(_columns.id > bindparam("after"))
# All of a partial index, which is usually empty.
_UNMARKED = select(_columns.id).where(IS_UNMARKED).order_by(_columns.id)
_MARK = rows.changed().where(_columns.id == bindparam("action_id"), IS_UNMARKED).values(awaited=true())


@dataclass(frozen=True)
class Unwatched:
    """An action that no task instance follows."""

    id: JobId
    type: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int


def find_unwatched(database: Database, *, older_than: timedelta, now: datetime) -> Iterator[Unwatched]:
    """Yield the unwatched actions without a recent report.

    :param older_than: minimum time since the last report: a task that has just ended may still report the
        exit of its job
    """
    after: JobId | None = None
    _mark_unmarked(database)
    while True:
        with database.transaction() as connection:
            batch = _awaited(connection, after)
            unwatched = _unwatched(connection, batch)
        yield from (_to_unwatched(row) for row in unwatched if row.updated_at < now - older_than)
        if len(batch) < _BATCH:
            return
        after = batch[-1].id


def reap_if_unwatched(
    actions: Actions, action_id: JobId, now: datetime, *, prove: Unseal[object] | None = None
) -> Transition:
    """End an action unless it is watched.

    If its job is still running, the server answers the next report with 410.

    :param prove: authenticates the requesting task, see :meth:`Actions.apply_message`
    :raises ActionNotFound: the action does not exist, unless ``prove`` raises another error
    """
    return actions.apply_message(action_id, Abandon(), now, prove=prove, unless=_should_stay)


def find_done(
    database: Database, action_ids: Sequence[JobId], *, older_than: timedelta, now: datetime
) -> set[JobId]:
    """Return the actions that are done and have had no report for at least ``older_than``.

    Actions that succeeded by a report alone (``completion="report"``) are not returned: their job may still
    be running.
    """
    over = set()
    for start in range(0, len(action_ids), _BATCH):
        query = rows.SELECT.where(_columns.id.in_(action_ids[start : start + _BATCH]))
        with database.transaction() as connection:
            for row in connection.execute(query):
                action = rows.to_action(row)
                may_run = action.completion is Completion.REPORT and action.state is State.SUCCESS
                if action.is_done and not may_run and row.updated_at < now - older_than:
                    over.add(action.id)
    return over


class Reaper:
    """Ends actions that were unwatched for a grace period. Each API server process has one.

    Purpose: ends the orphaned actions of a crashed host automatically.

    How it works: each call of :meth:`scan` reads the next batch of actions that are not done, ordered by id,
    and starts over after the last one. An action is ended if every round of scans within the grace period
    found it unwatched, and it still is. This last check holds the lock that adoption also takes. During a
    rolling upgrade, older API servers do not set ``awaited`` when they register an action, nor clear it when
    they end one. Each round first sets it where it is missing. If it is still set on an action that
    has ended, the reaper clears it after the grace period.

    What it does not do: consider reports. A job that keeps reporting without a task is ended as well.

    :param grace: time for a killed task to report the exit of its job
    :param batch: maximum number of actions per scan
    """

    def __init__(self, actions: Actions, *, grace: timedelta, batch: int = _BATCH) -> None:
        self._actions = actions
        self._grace = grace
        self._batch = batch
        self._after: JobId | None = None
        self._unwatched_since: dict[JobId, float] = {}
        self._seen: dict[JobId, float] = {}

    def restart_grace(self) -> None:
        """Restart the grace period of all actions.

        Call it after a database outage, during which no task could report.
        """
        self._after, self._unwatched_since, self._seen = None, {}, {}

    def scan(self, now: datetime, *, clock_seconds: float) -> None:
        """Check the next batch of actions.

        :param clock_seconds: time on a monotonic clock, for the grace period
        """
        if self._after is None:
            _mark_unmarked(self._actions.database)
        with self._actions.database.transaction() as connection:
            batch = _awaited(connection, self._after, self._batch)
            unwatched = _unwatched(connection, batch)
        since = {row.id: self._unwatched_since.get(row.id, clock_seconds) for row in unwatched}
        self._seen |= since
        if len(batch) == self._batch:
            self._after = batch[-1].id
        else:  # actions not seen in this round are watched again, or done
            self._after, self._unwatched_since, self._seen = None, self._seen, {}
        grace_seconds = self._grace.total_seconds()
        due = [
            action_id
            for action_id, first_seen in since.items()
            if clock_seconds - first_seen >= grace_seconds
        ]
        for action_id in due[:_MAX_ENDS_PER_SCAN]:
            self._reap(action_id, now)

    def _reap(self, action_id: JobId, now: datetime) -> None:
        with isolate_errors(action_id):
            ended = reap_if_unwatched(self._actions, action_id, now)
            if ended.after.is_done and not ended.before.is_done:
                state = ended.after.state
                log.warning("No task watched action %s: ended it as %s", action_id, state)


def _mark_unmarked(database: Database) -> None:
    """Mark actions registered by API servers of older releases as awaited."""
    with database.transaction() as connection:
        unmarked = connection.scalars(_UNMARKED).all()
    for action_id in unmarked:
        with database.transaction() as connection:
            connection.execute(_MARK, {"action_id": action_id})


def _awaited(connection: Connection, after: JobId | None, limit: int = _BATCH) -> Sequence[Row[Any]]:
    query: Select[Any] = _AWAITED if after is None else _AWAITED_AFTER
    return connection.execute(query, {"limit": limit, "after": after}).all()


def _should_stay(connection: Connection, row: Row[Any]) -> bool:
    if rows.to_action(row).is_done:
        rows.write(connection, row.id, {"awaited": None})  # an older API server did not unmark it
        return True
    return not _unwatched(connection, [row])


def _unwatched(connection: Connection, batch: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Return the actions that no task instance watches or will adopt."""
    ti_ids = [UUID(row.ti_id) for row in batch if row.ti_id is not None]
    query = select(task_instances.row_id).where(
        task_instances.row_id.in_(ti_ids), task_instances.state.in_(_WATCHING), task_instances.is_live()
    )
    watching = {str(UUID(str(ti_id))) for ti_id in connection.scalars(query)}
    unwatched = [row for row in batch if row.ti_id not in watching]
    adopted = to_be_adopted(connection, unwatched)
    return [row for row in unwatched if row.id not in adopted]


def _to_unwatched(row: Row[Any]) -> Unwatched:
    return Unwatched(row.id, row.type, row.dag_id, row.run_id, row.task_id, row.map_index)
