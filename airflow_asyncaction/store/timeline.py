# SPDX-License-Identifier: Apache-2.0
"""Timeline: reads the reports and log lines of an action, page by page."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, select

from airflow_asyncaction.protocol.actions import iso_time
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store import log_lines
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.models import action_table, report_table

_REPORTS_PAGE = 200

_LINES_DROPPED = select(action_table.c.log_lines_dropped).where(action_table.c.id == bindparam("action_id"))
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


def read_logs(database: Database, action_id: JobId, after: int) -> log_lines.LogPage:
    """Return the lines after line number ``after``: one page of about 2000 lines or 1 MiB."""
    with database.transaction() as connection:
        dropped = connection.scalar(_LINES_DROPPED, {"action_id": action_id})
        return log_lines.page(connection, action_id, after, dropped=dropped or 0)


def read_reports(database: Database, action_id: JobId, after: int, *, bodies: bool) -> dict[str, Any]:
    """Return the reports of an action after the report of id ``after``, as JSON for users.

    :param bodies: whether to include the bodies of refused reports
    """
    query = (
        _REPORTS.where(_reports.action_id == action_id, _reports.id > after)
        .order_by(_reports.id)
        .limit(_REPORTS_PAGE + 1)
    )
    with database.transaction() as connection:
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
