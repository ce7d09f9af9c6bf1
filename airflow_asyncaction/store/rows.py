# SPDX-License-Identifier: Apache-2.0
"""Rows: read and lock rows of ``async_action``, convert them to :class:`Action`, and write changes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, Update, bindparam, insert, null, select, update

from airflow_asyncaction.protocol.actions import Action, State, StopReason, Verb
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.options import options_from_columns
from airflow_asyncaction.protocol.reports import ReportedStatus
from airflow_asyncaction.store.models import action_table, report_table

ActionRow = Row[Any]
"""A row of ``async_action``, locked or not."""
Transaction = Connection
"""A connection in a transaction, for callers outside the store, which must not run SQL."""

_FIELDS = tuple(field.name for field in fields(Action))

_NOT_IN_ACTION = {
    "registration_digest",
    "dag_id",
    "run_id",
    "task_id",
    "map_index",
    "iteration",
    "runner",
    "traceparent",
    "awaited",
    "progress",
    "message",
    "requested_by",
    "requested_at",
    "scheduled_at",
    "idempotency_digest",
    "request_digest",
}

SELECT = select(*(column for column in action_table.c if column.name not in _NOT_IN_ACTION))
"""Query for the columns that :func:`to_action` needs, and those that authenticate requests."""


def changed() -> Update:
    """Return an update that increments the revision. Every update that changes an action starts with it."""
    return update(action_table).values(revision=action_table.c.revision + 1)


def select_without(names: Collection[str]) -> Select[Any]:
    """Return :data:`SELECT` with NULL for these columns, so that large values are not read."""
    return select(
        *(null().label(column.name) if column.name in names else column for column in SELECT.selected_columns)
    )


_SELECT = SELECT.where(action_table.c.id == bindparam("action_id"))
_SELECT_LOCKED = _SELECT.with_for_update()
_UPDATE = changed().where(action_table.c.id == bindparam("action_id"))
_INSERT_REPORT = insert(report_table).inline()
_UPDATE_WITH_REPORT = _UPDATE.add_cte(
    insert(report_table)
    .values(
        {
            column.name: bindparam(f"report_{column.name}", type_=column.type)
            for column in report_table.columns
            if not column.primary_key
        }
    )
    .cte("kept_report")
)
# SQLite has no row locks: a write locks the database before the row is read.
_LOCK_SQLITE = (
    update(action_table)
    .where(action_table.c.id == bindparam("action_id"))
    .values(updated_at=action_table.c.updated_at)
)


INITIAL_COLUMNS = {
    "fenced": False,
    "log_lines": 0,
    "log_lines_dropped": 0,
    "report_count": 0,
    "refused_count": 0,
}
"""Initial values of the columns that messages change."""


def read(connection: Connection, action_id: JobId) -> Row[Any] | None:
    """Return the row of an action without locking it."""
    return connection.execute(_SELECT, {"action_id": action_id}).one_or_none()


def lock(connection: Connection, action_id: JobId) -> Row[Any] | None:
    """Return the row of an action, locked until the transaction ends."""
    if connection.dialect.name == "sqlite":
        connection.execute(_LOCK_SQLITE, {"action_id": action_id})
        return read(connection, action_id)
    return connection.execute(_SELECT_LOCKED, {"action_id": action_id}).one_or_none()


def write(connection: Connection, action_id: JobId, changes: dict[str, Any]) -> None:
    """Update columns of a locked row."""
    connection.execute(_UPDATE, {"action_id": action_id, **changes})


def insert_report(connection: Connection, report: dict[str, Any]) -> None:
    """Insert the row of a report.

    :param report: all its columns
    """
    connection.execute(_INSERT_REPORT, report)


def write_with_report(
    connection: Connection, action_id: JobId, changes: dict[str, Any], report: dict[str, Any]
) -> None:
    """Update columns of a locked row, and insert the row of the report that changed them.

    :param report: all columns of the report
    """
    if connection.dialect.name == "postgresql":  # one statement: the round trip costs more than the work
        parameters = {f"report_{name}": value for name, value in report.items()}
        connection.execute(_UPDATE_WITH_REPORT, {"action_id": action_id, **changes, **parameters})
    else:
        insert_report(connection, report)
        write(connection, action_id, changes)


def to_action(row: Row[Any]) -> Action:
    """Return the action of a row."""
    return Action(
        id=row.id,
        type=row.type,
        attempt=row.attempt,
        created_at=row.created_at,
        state=State(row.state),
        arguments=row.arguments,
        reported=row.reported and ReportedStatus(row.reported),
        status_details=row.status_details,
        results=row.results,
        error_name=row.error_name,
        error_message=row.error_message,
        agent=row.agent,
        job=row.job,
        verb=row.verb and Verb(row.verb),
        stop_reason=row.stop_reason and StopReason(row.stop_reason),
        fenced=row.fenced,
        exit=row.exit,
        started_at=row.started_at,
        last_report_at=row.last_report_at,
        ended_at=row.ended_at,
        service_name=row.service_name,
        method=row.method,
        **options_from_columns(Action, row),
    )


def changes(before: Action, after: Action, now: datetime) -> dict[str, Any]:
    """Return the columns that differ, and the time of the change."""
    changed = {
        name: getattr(after, name) for name in _FIELDS if getattr(after, name) is not getattr(before, name)
    }
    if after.is_done and not before.is_done:
        changed["awaited"] = None
    elif after.state.is_end and not before.state.is_end:  # an older API server may not have marked it
        changed["awaited"] = True
    return {**changed, "updated_at": now}
