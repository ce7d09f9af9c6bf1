# SPDX-License-Identifier: Apache-2.0
"""Rows of ``async_action`` as :class:`Action` objects, and the changes of an action as columns."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from airflow_asyncaction.protocol.actions import Action, State, StopReason, Verb
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.options import options_from_columns
from airflow_asyncaction.protocol.reports import ReportedStatus
from airflow_asyncaction.store.models import action_table, report_table

ActionRow = Row[Any]
"""A row of ``async_action``, locked or not."""
Transaction = Connection
"""A connection within a transaction: for callers that hold one and know no SQL."""

_FIELDS = tuple(field.name for field in fields(Action))

_NOT_OF_AN_ACTION = {"registration", "dag_id", "run_id", "task_id", "map_index", "runner", "traceparent"} | {
    "awaited",
    "progress",
    "message",
    "requested_by",
    "requested_at",
    "scheduled_at",
    "idempotency",
    "request",
}

SELECT = select(*(column for column in action_table.c if column.name not in _NOT_OF_AN_ACTION))
"""All that makes :func:`to_action`, and whose it is."""

_SELECT = SELECT.where(action_table.c.id == bindparam("action_id"))
_SELECT_LOCKED = _SELECT.with_for_update()
_UPDATE = update(action_table).where(action_table.c.id == bindparam("action_id"))
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
# SQLite has no row locks: a write takes the database's, before anything is read.
_LOCK_SQLITE = _UPDATE.values(updated_at=action_table.c.updated_at)


UNTOUCHED = {"fenced": False, "log_lines": 0, "log_lines_dropped": 0, "report_count": 0, "refused_count": 0}
"""Columns of an action of which nothing was heard yet."""


def read(connection: Connection, action_id: JobId) -> Row[Any] | None:
    """Return the action's row without locking it."""
    return connection.execute(_SELECT, {"action_id": action_id}).one_or_none()


def lock(connection: Connection, action_id: JobId) -> Row[Any] | None:
    """Return the action's row, nobody else's to change until the transaction ends."""
    if connection.dialect.name == "sqlite":
        connection.execute(_LOCK_SQLITE, {"action_id": action_id})
        return read(connection, action_id)
    return connection.execute(_SELECT_LOCKED, {"action_id": action_id}).one_or_none()


def write(connection: Connection, action_id: JobId, changes: dict[str, Any]) -> None:
    """Write changed columns of a locked row."""
    connection.execute(_UPDATE, {"action_id": action_id, **changes})


def insert_report(connection: Connection, report: dict[str, Any]) -> None:
    """Write the row of a report.

    :param report: all columns of it
    """
    connection.execute(_INSERT_REPORT, report)


def write_with_report(
    connection: Connection, action_id: JobId, changes: dict[str, Any], report: dict[str, Any]
) -> None:
    """Write changed columns of a locked row, and the row of the report that changed them.

    :param report: all columns of it
    """
    if connection.dialect.name == "postgresql":  # in one statement: the way to it costs more than it does
        parameters = {f"report_{name}": value for name, value in report.items()}
        connection.execute(_UPDATE_WITH_REPORT, {"action_id": action_id, **changes, **parameters})
    else:
        insert_report(connection, report)
        write(connection, action_id, changes)


def to_action(row: Row[Any]) -> Action:
    """Return the action that a row holds."""
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
    """Return the columns that differ, and when they were changed."""
    changed = {
        name: getattr(after, name) for name in _FIELDS if getattr(after, name) is not getattr(before, name)
    }
    if after.is_done and not before.is_done:
        changed["awaited"] = None
    elif after.state.is_end and not before.state.is_end:  # an older server may have left the mark out
        changed["awaited"] = True
    return {**changed, "updated_at": now}
