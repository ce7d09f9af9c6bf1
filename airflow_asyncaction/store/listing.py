# SPDX-License-Identifier: Apache-2.0
"""Actions as users look at them: one, or a page of a list, at a cost that does not grow with the table."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, bindparam, func, literal_column, null, select, union_all

from airflow_asyncaction.airflow_internals.server import task_instances
from airflow_asyncaction.exceptions import ActionNotFound, SecretUnreadable
from airflow_asyncaction.protocol.actions import State, is_skipped, iso_time
from airflow_asyncaction.protocol.job_info import JobId, is_job_id
from airflow_asyncaction.protocol.masking import MASK
from airflow_asyncaction.protocol.reports import MAX_LISTED_CHARS
from airflow_asyncaction.store import log_lines, masks, rows
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.models import action_table, report_table

_MOST_RANGES = 200
"""So many ranges of an index are read for a page; if more were needed, it is one go through all actions."""
_REPORTS_PAGE = 200

_columns = action_table.c
_NEVER_SHOWN = {"secret", "task_key", "sealed_arguments", "registration", "idempotency", "ti_id", "awaited"}
_TASK_KEY = ("dag_id", "run_id", "task_id", "map_index")
_RENDERED_MAP_INDEX = (
    select(task_instances.rendered_map_index)
    .where(_columns.map_index >= 0, task_instances.matches(_columns))
    .correlate(action_table)
    .scalar_subquery()
    .label("rendered_map_index")
)
_SHOWN = select(*(column for column in _columns if column.name not in _NEVER_SHOWN), _RENDERED_MAP_INDEX)


def _shown_but(instead: Mapping[str, ColumnElement[Any]]) -> Select[Any]:
    """Return the query for what is shown, with something else in place of some columns."""
    columns = _SHOWN.selected_columns
    return select(
        *(instead[each.name].label(each.name) if each.name in instead else each for each in columns)
    )


_WITHOUT_LARGE = dict.fromkeys(("arguments", "results", "agent", "masks"), null())
_SHORT = _shown_but(_WITHOUT_LARGE)
_LISTED = _shown_but(
    {
        **_WITHOUT_LARGE,
        "status_details": null(),
        "exit": null(),
        "error_message": func.substr(_columns.error_message, 1, MAX_LISTED_CHARS),
    }
)
"""Of lists: nothing whose size a job decides."""
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
_LINES_DROPPED = select(_columns.log_lines_dropped).where(_columns.id == bindparam("action_id"))
_reports = report_table.c
_REPORTS = select(
    _reports.id,
    _reports.kind,
    _reports.received_at,
    _reports.scheme,
    _reports.refused_with,
    _reports.body,
    _reports.log_count,
    _reports.requested_by,
)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which actions are wanted: those to which all that is given applies.

    :param since: created at that time or later; ``until``: before
    """

    type: str | None = None
    states: Collection[State] = ()
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class ActionRecord:
    """An action with all that users are shown of it.

    :param row: of ``async_action``, without what is never shown
    """

    row: Any

    @property
    def id(self) -> JobId:
        """Its uuid."""
        return JobId(self.row.id)

    @property
    def dag_id(self) -> str:
        """The Dag it belongs to: who may see that may see it."""
        return str(self.row.dag_id)

    @property
    def state(self) -> State:
        """Where it stands."""
        return State(self.row.state)

    @property
    def has_results(self) -> bool:
        """Whether its job, or its task, has told any: they may be ``null``."""
        return self.row.results is not None

    @property
    def status_details(self) -> Any:
        """What its job has told last of how it gets on, parsed."""
        return _parsed(self.row.status_details)

    @property
    def is_done(self) -> bool:
        """As :attr:`Action.is_done`."""
        return rows.to_action(self.row).is_done

    def to_short_json(self, now: datetime) -> dict[str, Any]:
        """Return it as it stands in a list."""
        row = self.row
        progress = row.progress
        if progress is not None and self.state is State.SUCCESS:
            progress = 100  # whatever its job reported last
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
        """Return a JSON value without the secrets that its task knows; a mask, if they cannot be read."""
        try:
            return masks.masker_of(self.row).json(shown)
        except SecretUnreadable:
            return MASK

    def to_json(self, now: datetime) -> dict[str, Any]:
        """Return all that is shown of it. Of what its job reported, only the results are stored unmasked."""
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
    """What is to come of a task whose action has ended: each try has an action of its own.

    :param next_attempt: the action of the next try, once it is there
    :param is_final: whether the end is that of the task as well, as far as Airflow knows now
    """

    next_attempt: JobId | None
    is_final: bool


@dataclass(frozen=True)
class Page:
    """Some actions, the newest first.

    :param next: id of the last one, if there are more: ask for those before it
    """

    actions: tuple[ActionRecord, ...]
    next: JobId | None

    def first(self, count: int) -> Page:
        """Return its first actions as a page of their own."""
        if len(self.actions) <= count:
            return self
        return Page(self.actions[:count], self.actions[count - 1].id)


@dataclass(frozen=True)
class Change:
    """What tells whether anything about an action is new."""

    dag_id: str
    updated_at: datetime
    state: State

    @property
    def has_failed(self) -> bool:
        """Whether another try may follow, of which the action's own row does not tell."""
        return self.state.is_end and self.state is not State.SUCCESS


def find(actions: Actions, uuid: str, *, short: bool = False) -> ActionRecord:
    """Return an action.

    :param short: without what a list does not show
    :raises ActionNotFound: there is none
    """
    query = _SHORT if short else _SHOWN
    with actions.transaction() as connection:
        row = connection.execute(query.where(_columns.id == _checked(uuid))).one_or_none()
    if row is None:
        raise _not_found(uuid)
    return ActionRecord(row)


def find_change(actions: Actions, uuid: str) -> Change:
    """Return what tells whether anything about an action is new.

    :raises ActionNotFound: there is none
    """
    with actions.transaction() as connection:
        row = connection.execute(_CHANGED.where(_columns.id == _checked(uuid))).one_or_none()
    if row is None:
        raise _not_found(uuid)
    return Change(row.dag_id, row.updated_at, State(row.state))


def find_outlook(actions: Actions, action: ActionRecord) -> Outlook:
    """Return what is to come after an action."""
    if not action.is_done:
        return Outlook(None, is_final=False)
    if action.state is State.SUCCESS or is_skipped(action.state, action.row.error_name):
        return Outlook(None, is_final=True)
    key = {name: getattr(action.row, name) for name in _TASK_KEY}
    with actions.transaction() as connection:
        next_attempt = connection.scalar(_NEXT_ATTEMPT, {**key, "after": action.id})
        task = connection.execute(_TASK_STATE, key).one_or_none()
    is_over = task is None or task.state in task_instances.FINISHED
    return Outlook(next_attempt, is_final=next_attempt is None and is_over)


def list_actions(
    actions: Actions,
    wanted: Filter,
    *,
    dag_ids: Collection[str] | None = None,
    limit: int,
    before: JobId | None = None,
) -> Page:
    """Return the newest actions that are wanted.

    :param dag_ids: of these Dags only; ``None``: of all
    :param before: only those that were created before this one
    """
    conditions, ranges = _conditions(wanted, before), _ranges(wanted, dag_ids)
    with actions.transaction() as connection:
        if len(ranges) == 1:
            found = _newest(_LISTED.where(*conditions, *ranges[0]), limit + 1)
        else:
            ids = connection.scalars(_newest_ids(conditions, ranges, limit + 1)).all() if ranges else []
            found = _newest(_LISTED.where(_columns.id.in_(ids)), limit + 1)
        newest = connection.execute(found).all()
    records = tuple(ActionRecord(row) for row in newest[:limit])
    return Page(records, records[-1].id if len(newest) > limit else None)


def read_logs(actions: Actions, action_id: JobId, after: int) -> log_lines.LogPage:
    """Return the lines after line number ``after``, at most some 2000 or a MiB."""
    with actions.transaction() as connection:
        dropped = connection.scalar(_LINES_DROPPED, {"action_id": action_id})
        return log_lines.page(connection, action_id, after, dropped=dropped or 0)


def read_reports(actions: Actions, action_id: JobId, after: int, *, bodies: bool) -> dict[str, Any]:
    """Return what came about an action after the report of id ``after``, as users are shown it.

    :param bodies: whether with what was in those that were refused
    """
    query = (
        _REPORTS.where(_reports.action_id == action_id, _reports.id > after)
        .order_by(_reports.id)
        .limit(_REPORTS_PAGE + 1)
    )
    with actions.transaction() as connection:
        found = connection.execute(query).all()
    return {
        "reports": [_report_json(row, bodies=bodies) for row in found[:_REPORTS_PAGE]],
        "hasMore": len(found) > _REPORTS_PAGE,
    }


def _report_json(row: Any, *, bodies: bool) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "receivedAt": iso_time(row.received_at),
        "scheme": row.scheme,
        "refusedWith": row.refused_with,
        "body": row.body if bodies else None,
        "logCount": row.log_count,
        "requestedBy": row.requested_by,
    }


def _newest(query: Select[Any], count: int) -> Select[Any]:
    return query.order_by(_columns.id.desc()).limit(count)


def _newest_ids(conditions: Sequence[Any], ranges: Sequence[Sequence[Any]], count: int) -> Select[tuple[str]]:
    """Return the query for the ids of the newest ones: the newest of each range, and of these the newest."""
    parts = [_newest(select(_columns.id).where(*conditions, *range_), count) for range_ in ranges]
    id_ = literal_column("id", _columns.id.type)
    merged = union_all(*(select(id_).select_from(part.subquery()) for part in parts)).subquery()
    return select(id_).select_from(merged).order_by(id_.desc()).limit(count)


def _ranges(wanted: Filter, dag_ids: Collection[str] | None) -> list[list[Any]]:
    """Return conditions of which each wanted one meets one: each is a range of an index, read backwards."""
    states = [state.value for state in sorted(set(wanted.states or State))]
    dags = dag_ids
    if wanted.dag_id is not None:
        dags = [wanted.dag_id] if dag_ids is None or wanted.dag_id in dag_ids else []
    are_theirs: list[Any] = []
    if dags is not None:
        if len(dags) * len(states) <= _MOST_RANGES:
            return [
                [_columns.dag_id == dag, _columns.state == state] for dag in sorted(dags) for state in states
            ]
        are_theirs = [_columns.dag_id.in_(dags)]
    if wanted.type is not None or wanted.states:
        return [[_columns.state == state, *are_theirs] for state in states]
    return [are_theirs]


def _conditions(wanted: Filter, before: JobId | None) -> list[Any]:
    given: Sequence[tuple[Any, Any]] = (
        (_columns.type, wanted.type),
        (_columns.run_id, wanted.run_id),
        (_columns.task_id, wanted.task_id),
        (_columns.map_index, wanted.map_index),
    )
    conditions = [column == value for column, value in given if value is not None]
    if before is not None:
        conditions.append(_columns.id < before)
    if wanted.since is not None:
        conditions.append(_columns.id >= _first_id_of(wanted.since))
    if wanted.until is not None:
        conditions.append(_columns.id < _first_id_of(wanted.until))
    return conditions


def _first_id_of(moment: datetime) -> JobId:
    """Return the least id that an action of this time can have: ids are of version 7."""
    ms = min(max(0, int(moment.timestamp() * 1000)), 2**48 - 1)
    return JobId(str(UUID(int=ms << 80)))


def _checked(uuid: str) -> JobId:
    if not is_job_id(uuid):
        raise _not_found(uuid)
    return JobId(uuid.lower())


def _not_found(uuid: str) -> ActionNotFound:
    return ActionNotFound(f"There is no action {uuid[:50]!r}, or it is not yours to see")


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)
