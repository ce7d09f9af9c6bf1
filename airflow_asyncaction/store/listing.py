# SPDX-License-Identifier: Apache-2.0
"""Listing: reads one action or a page of actions for users. Its cost hardly depends on the table size."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, null, select

from airflow_asyncaction.airflow_internals.server import task_instances
from airflow_asyncaction.exceptions import ActionNotFound, SecretUnreadable
from airflow_asyncaction.protocol.actions import State, is_skipped, iso_time
from airflow_asyncaction.protocol.job_info import JobId, is_job_id
from airflow_asyncaction.protocol.masking import MASK
from airflow_asyncaction.protocol.reports import MAX_LISTED_CHARS
from airflow_asyncaction.store import masks, rows
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.filtering import Filter, find_newest
from airflow_asyncaction.store.models import action_table

_columns = action_table.c
_NEVER_SHOWN = {
    "secret",
    "task_key",
    "sealed_arguments",
    "registration_digest",
    "idempotency_digest",
    "ti_id",
    "awaited",
}
_TASK_KEY = ("dag_id", "run_id", "task_id", "map_index", "iteration")
_RENDERED_MAP_INDEX = (
    select(task_instances.rendered_map_index)
    .where(_columns.map_index >= 0, task_instances.matches(_columns))
    .correlate(action_table)
    .scalar_subquery()
    .label("rendered_map_index")
)
_REGION_ID = (
    select(task_instances.region_id)
    .where(_columns.iteration >= 0, task_instances.matches(_columns))
    .correlate(action_table)
    .scalar_subquery()
    .label("region_id")
)
_SHOWN = select(
    *(column for column in _columns if column.name not in _NEVER_SHOWN), _RENDERED_MAP_INDEX, _REGION_ID
)


def _replace_columns(replacements: Mapping[str, ColumnElement[Any]]) -> Select[Any]:
    """Return the query for the shown columns, some of them replaced by other expressions."""
    columns = _SHOWN.selected_columns
    return select(
        *(replacements[each.name].label(each.name) if each.name in replacements else each for each in columns)
    )


_WITHOUT_LARGE = dict.fromkeys(("arguments", "results", "agent", "masks"), null())
_SHORT = _replace_columns(_WITHOUT_LARGE)
_LISTED = _replace_columns(
    {
        **_WITHOUT_LARGE,
        "status_details": null(),
        "exit": null(),
        "error_message": func.substr(_columns.error_message, 1, MAX_LISTED_CHARS),
    }
)
"""Query for lists. It omits or truncates all columns whose size a job controls."""
_NEXT_ATTEMPT = (
    select(_columns.id)
    .where(*(_columns[name] == bindparam(name) for name in _TASK_KEY), _columns.id > bindparam("after"))
    .order_by(_columns.id)
    .limit(1)
)
_TASK_STATE = select(task_instances.state).where(
    task_instances.matches({name: bindparam(name) for name in _TASK_KEY})
)
_CHANGED = select(_columns.updated_at, _columns.dag_id, _columns.state)


@dataclass(frozen=True)
class ActionRecord:
    """An action as users see it.

    :param row: row of ``_SHOWN``, ``_SHORT`` or ``_LISTED``; its ``masks`` are for :meth:`masked` only
    """

    row: Any

    @property
    def id(self) -> JobId:
        """UUID of the action."""
        return JobId(self.row.id)

    @property
    def dag_id(self) -> str:
        """Id of the Dag, which determines who may see the action."""
        return str(self.row.dag_id)

    @property
    def state(self) -> State:
        """Current state."""
        return State(self.row.state)

    @property
    def has_results(self) -> bool:
        """True if the job or task has reported results, which may be ``null``."""
        return self.row.results is not None

    @property
    def status_details(self) -> Any:
        """The status details last reported by its job, parsed."""
        return _parsed(self.row.status_details)

    @property
    def is_done(self) -> bool:
        """See :attr:`Action.is_done`."""
        return rows.to_action(self.row).is_done

    def to_short_json(self, now: datetime) -> dict[str, Any]:
        """Return its JSON fields for lists."""
        row = self.row
        progress = row.progress
        if progress is not None and self.state is State.SUCCESS:
            progress = 100  # even if its job last reported less
        return {
            "uuid": row.id,
            "type": row.type,
            "status": row.state,
            "action": row.verb if row.verb and not self.state.is_end else None,
            "stopReason": row.stop_reason,
            "runner": row.runner or None,
            "attempt": row.attempt,
            "dagId": row.dag_id,
            "runId": row.run_id,
            "taskId": row.task_id,
            "mapIndex": row.map_index,
            "renderedMapIndex": row.rendered_map_index,
            "iteration": None if row.iteration < 0 else row.iteration,
            "regionId": None if row.region_id is None else str(row.region_id),
            "errorName": row.error_name,
            "errorMessage": row.error_message,
            "progress": progress,
            "message": row.message,
            "job": _parsed(row.job),
            "reportCount": row.report_count,
            "refusedCount": row.refused_count,
            "logLines": row.log_lines,
            "logLinesDropped": row.log_lines_dropped,
            "createdAt": iso_time(row.requested_at or row.created_at),
            "scheduledAt": iso_time(row.scheduled_at),
            "startedAt": iso_time(row.started_at),
            "lastReportAt": iso_time(row.last_report_at),
            "endedAt": iso_time(row.ended_at),
            "requestedBy": row.requested_by,
            "isDone": self.is_done,
            "serverTime": iso_time(now),
        }

    def masked(self, shown: Any) -> Any:
        """Mask the secrets of its task in a JSON value, or the whole value if they are unreadable."""
        try:
            return masks.masker_of(self.row).json(shown)
        except SecretUnreadable:
            return MASK

    def to_json(self, now: datetime) -> dict[str, Any]:
        """Return all its JSON fields. Of the reported fields, only the results are stored unmasked."""
        row = self.row
        return {
            **self.to_short_json(now),
            "arguments": _parsed(row.arguments),
            "serviceName": self.masked(row.service_name),
            "method": self.masked(row.method),
            "results": self.masked(_parsed(row.results)),
            "hasResults": self.has_results,
            "statusDetails": self.status_details,
            "agent": _parsed(row.agent),
            "exit": _parsed(row.exit),
        }


@dataclass(frozen=True)
class Outlook:
    """Outlook of an ended action: whether another try follows.

    Each try has an action of its own, unless it adopts that of the last try.

    :param next_attempt: the action of the next try, if it exists
    :param is_final: whether the task has ended as well and Airflow plans no further try
    """

    next_attempt: JobId | None
    is_final: bool


@dataclass(frozen=True)
class Page:
    """A page of actions, newest first.

    :param next: cursor for the next page (id of the last action); ``None`` on the last page
    """

    actions: tuple[ActionRecord, ...]
    next: JobId | None

    def first(self, count: int) -> Page:
        """Return a page of its first ``count`` actions."""
        if len(self.actions) <= count:
            return self
        return Page(self.actions[:count], self.actions[count - 1].id)


@dataclass(frozen=True)
class Change:
    """Columns that show whether an action has changed."""

    dag_id: str
    updated_at: datetime
    state: State

    @property
    def may_be_retried(self) -> bool:
        """True if it failed or was stopped. Its row does not show whether another attempt follows."""
        return self.state.is_end and self.state is not State.SUCCESS


def find(database: Database, uuid: str, *, short: bool = False) -> ActionRecord:
    """Return an action.

    :param short: omit the large columns
    :raises ActionNotFound: the action does not exist
    """
    query = _SHORT if short else _SHOWN
    with database.transaction() as connection:
        row = connection.execute(query.where(_columns.id == _parse_id(uuid))).one_or_none()
    if row is None:
        raise _not_found(uuid)
    return ActionRecord(row)


def find_change(database: Database, uuid: str) -> Change:
    """Return the columns that show whether an action has changed.

    :raises ActionNotFound: the action does not exist
    """
    with database.transaction() as connection:
        row = connection.execute(_CHANGED.where(_columns.id == _parse_id(uuid))).one_or_none()
    if row is None:
        raise _not_found(uuid)
    return Change(row.dag_id, row.updated_at, State(row.state))


def find_outlook(database: Database, action: ActionRecord) -> Outlook:
    """Return whether another try follows an action."""
    if not action.is_done:
        return Outlook(None, is_final=False)
    if action.state is State.SUCCESS or is_skipped(action.state, action.row.error_name):
        return Outlook(None, is_final=True)
    key = {name: getattr(action.row, name) for name in _TASK_KEY}
    with database.transaction() as connection:
        next_attempt = connection.scalar(_NEXT_ATTEMPT, {**key, "after": action.id})
        task = connection.execute(_TASK_STATE, key).one_or_none()
    is_over = task is None or task.state in task_instances.FINISHED
    return Outlook(next_attempt, is_final=next_attempt is None and is_over)


def list_actions(
    database: Database,
    wanted: Filter,
    *,
    dag_ids: Collection[str] | None = None,
    limit: int,
    before: JobId | None = None,
) -> Page:
    """Return the newest actions that match a filter.

    :param dag_ids: restrict to these Dags; ``None`` for all
    :param before: cursor: only actions created before this one
    """
    with database.transaction() as connection:
        newest = find_newest(connection, wanted, dag_ids=dag_ids, before=before, count=limit + 1)
        query = _LISTED.where(*newest).order_by(_columns.id.desc()).limit(limit + 1)
        found = connection.execute(query).all()
    records = tuple(ActionRecord(row) for row in found[:limit])
    return Page(records, records[-1].id if len(found) > limit else None)


def _parse_id(uuid: str) -> JobId:
    if not is_job_id(uuid):
        raise _not_found(uuid)
    return JobId(uuid.lower())


def _not_found(uuid: str) -> ActionNotFound:
    return ActionNotFound(f"There is no action {uuid[:50]!r}, or you may not see it.")


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)
