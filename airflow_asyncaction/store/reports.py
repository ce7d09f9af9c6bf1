# SPDX-License-Identifier: Apache-2.0
"""Reports: rows of ``async_action_report``, with their log lines."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, select

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import Limits, LogLine, ReportedStatus, replace_unstorable
from airflow_asyncaction.protocol.signing import Scheme
from airflow_asyncaction.store import log_lines, rows
from airflow_asyncaction.store.models import report_table

KEPT_REPORTS = 1000
"""Maximum number of reports stored per action, not counting those with log lines, ends and refusals."""

_columns = report_table.c
_IS_OLD = (_columns.action_id == bindparam("action_id_"), _columns.received_at < bindparam("older_than"))
_PRUNE_HEARTBEATS = delete(report_table).where(*_IS_OLD, _columns.kind == "heartbeat")
_ARE_MANY = (
    _columns.action_id == bindparam("action_id_"),
    _columns.kind.in_(["report", ReportedStatus.RUNNING.value]),
    _columns.refused_with.is_(None),
    _columns.logs.is_(None),
)
_OLDEST_KEPT = (
    select(_columns.id).where(*_ARE_MANY).order_by(_columns.id.desc()).limit(1).offset(bindparam("count"))
)
_PRUNE_REPORTS = delete(report_table).where(
    *_ARE_MANY, _columns.received_at < bindparam("older_than"), _columns.id < bindparam("oldest_kept")
)


@dataclass(frozen=True)
class Envelope:
    """The transport data of a report.

    :param key: identifies the report within its action (``signing.report_key``)
    """

    key: str
    scheme: Scheme
    body: bytes

    @cached_property
    def body_sha256(self) -> str:
        """Hex digest of the body. It distinguishes a resend from another report with the same nonce."""
        return hashlib.sha256(self.body).hexdigest()


def own_envelope() -> Envelope:
    """Return an envelope for the server's own messages, with a key that no job can send."""
    return Envelope("." + secrets.token_hex(16), Scheme.V2, b"")


def columns(action_id: JobId, envelope: Envelope, now: datetime, **known: Any) -> dict[str, Any]:
    """Return all columns of a report row.

    :param known: values of columns that differ from those of an accepted report without log lines
    """
    return {
        "action_id": action_id,
        "report_key": envelope.key,
        "scheme": envelope.scheme.value,
        "body_sha256": envelope.body_sha256,
        "kind": "report",
        "refused_with": None,
        "body": None,
        "logs": None,
        "log_count": 0,
        "last_line": None,
        "log_bytes": None,
        "received_at": now,
        "requested_by": None,
        **known,
    }


def add(
    connection: Connection,
    row: Row[Any],
    report: dict[str, Any],
    lines: Sequence[LogLine],
    changes: dict[str, Any],
    *,
    max_log_bytes: int = Limits.max_log_bytes,
) -> None:
    """Insert a report with its log lines, and update the locked row of its action.

    The oldest lines beyond the limits of the action are dropped.

    :param max_log_bytes: maximum size of the stored lines of an action
    """
    if lines:
        appended = log_lines.Appended.to(row, lines)
        dropped = max(row.log_lines_dropped, appended.last_line - row.max_log_lines)
        kept_bytes = appended.kept_bytes
        if kept_bytes > max_log_bytes:
            excess_bytes = kept_bytes - max_log_bytes
            dropped = max(dropped, log_lines.drop_for_bytes(connection, row.id, excess_bytes=excess_bytes))
        if dropped > row.log_lines_dropped:
            kept_bytes = max(0, kept_bytes - log_lines.free(connection, row.id, dropped=dropped))
        if dropped < appended.last_line:
            report |= appended.report_columns
        else:
            kept_bytes -= appended.size_bytes
        changes |= {**appended.action_columns, "log_lines_dropped": dropped, "log_bytes": kept_bytes}
    rows.write_with_report(connection, row.id, changes, report)


def add_message(
    connection: Connection, action_id: JobId, kind: str, now: datetime, *, requested_by: str | None = None
) -> None:
    """Insert a message into the timeline of an action.

    :param requested_by: name of the requesting user; ``None`` for messages of a runner or the server
    """
    known = {"kind": kind, "requested_by": requested_by and replace_unstorable(requested_by)[:250]}
    rows.insert_report(connection, columns(action_id, own_envelope(), now, **known))


def reread_and_add_line(
    connection: Connection, action_id: JobId, kind: str, line: LogLine, now: datetime
) -> None:
    """Read the row of a locked action again, since it may have changed, and append a line to its log."""
    row = rows.read(connection, action_id)
    if row is not None:
        add_line(connection, row, kind, line, now)


def add_line(connection: Connection, row: Row[Any], kind: str, line: LogLine, now: datetime) -> None:
    """Append a line of the server to the log of an action."""
    report = columns(row.id, own_envelope(), now, kind=kind)
    add(connection, row, report, (line,), {"updated_at": now})


def prune(connection: Connection, action_id: JobId, *, older_than: datetime) -> None:
    """Delete reports that can no longer be resent: heartbeats, and all but the newest without log lines.

    :param older_than: delete only reports received before this time
    """
    known = {"action_id_": action_id, "older_than": older_than}
    connection.execute(_PRUNE_HEARTBEATS, known)
    oldest_kept = connection.scalar(_OLDEST_KEPT, {"action_id_": action_id, "count": KEPT_REPORTS - 1})
    if oldest_kept is not None:
        connection.execute(_PRUNE_REPORTS, {**known, "oldest_kept": oldest_kept})
