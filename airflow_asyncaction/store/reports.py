# SPDX-License-Identifier: Apache-2.0
"""Rows of ``async_action_report``: what came about an action, with its log lines."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Row

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import LogLine, well_formed
from airflow_asyncaction.protocol.signing import Scheme
from airflow_asyncaction.store import log_lines, rows


@dataclass(frozen=True)
class Envelope:
    """How a report came.

    :param key: what identifies it within its action (``signing.report_key``)
    """

    key: str
    scheme: Scheme
    body: bytes

    @cached_property
    def body_sha256(self) -> str:
        """Hex digest, which tells a re-send from another report under the same nonce."""
        return hashlib.sha256(self.body).hexdigest()


def own_envelope() -> Envelope:
    """Return the envelope of what the server itself has to say: a key that no job can send."""
    return Envelope("." + secrets.token_hex(16), Scheme.V2, b"")


def columns(action_id: JobId, envelope: Envelope, now: datetime, **known: Any) -> dict[str, Any]:
    """Return all columns of a report's row.

    :param known: those that differ from a report without lines that was accepted
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
        "received_at": now,
        "requested_by": None,
        **known,
    }


def keep(
    connection: Connection,
    row: Row[Any],
    report: dict[str, Any],
    lines: Sequence[LogLine],
    changes: dict[str, Any],
) -> None:
    """Write a report with its log lines, and what it changes of its action's locked row.

    The oldest lines beyond the action's limit are dropped.
    """
    if not lines:
        rows.write_with_report(connection, row.id, changes, report)
        return
    last_line = row.log_lines + len(lines)
    report |= {"logs": log_lines.encode(lines), "log_count": len(lines), "last_line": last_line}
    changes["log_lines"] = last_line
    excess = last_line - row.log_lines_dropped - row.log_limit
    if excess > 0:
        changes["log_lines_dropped"] = row.log_lines_dropped + excess
    rows.write_with_report(connection, row.id, changes, report)
    if excess > 0:
        log_lines.drop_oldest(connection, row.id, dropped=row.log_lines_dropped, excess=excess)


def keep_message(
    connection: Connection, action_id: JobId, kind: str, now: datetime, *, requested_by: str | None = None
) -> None:
    """Keep a message for the action's time line.

    :param requested_by: name of the user who asked for it; ``None``: a runner's, or the server's own
    """
    known = {"kind": kind, "requested_by": requested_by and well_formed(requested_by)[:250]}
    rows.insert_report(connection, columns(action_id, own_envelope(), now, **known))


def append_line(connection: Connection, action_id: JobId, kind: str, line: LogLine, now: datetime) -> None:
    """Keep a line of the server's own in the log of an action that is locked, and was changed since."""
    row = rows.read(connection, action_id)
    if row is not None:
        keep_line(connection, row, kind, line, now)


def keep_line(connection: Connection, row: Row[Any], kind: str, line: LogLine, now: datetime) -> None:
    """Keep a line of the server's own in an action's log."""
    report = columns(row.id, own_envelope(), now, kind=kind)
    keep(connection, row, report, (line,), {"updated_at": now})
