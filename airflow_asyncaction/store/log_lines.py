# SPDX-License-Identifier: Apache-2.0
"""The log lines of an action: kept in its reports, numbered from 1, the oldest dropped over the limit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import LogLine
from airflow_asyncaction.store.models import report_table

_PAGE_REPORTS = 100
_PAGE_LINES = 2000

_columns = report_table.c
_AFTER = (
    select(_columns.id, _columns.last_line, _columns.log_count, _columns.logs)
    .where(_columns.action_id == bindparam("action_id"), _columns.last_line > bindparam("after"))
    .order_by(_columns.last_line)
    .limit(_PAGE_REPORTS)
)
_SET_LOGS = update(report_table).where(_columns.id == bindparam("report_id"))


@dataclass(frozen=True)
class LogPage:
    """Some log lines in order.

    :param first_line: number of the first one; if it is not the one asked for, those before it were dropped
    :param has_more: whether more lines are stored behind these
    """

    first_line: int
    lines: tuple[LogLine, ...]
    has_more: bool

    @property
    def last_line(self) -> int:
        """Number of the last line: ask for what comes after it."""
        return self.first_line + len(self.lines) - 1


def encode(lines: Sequence[LogLine]) -> str | None:
    """Return what a report row keeps of its lines."""
    return strict_json.dumps([line.to_json() for line in lines]) if lines else None


def page(connection: Connection, action_id: JobId, after: int) -> LogPage:
    """Return the lines that follow line number ``after``, at most some 2000."""
    rows = connection.execute(_AFTER, {"action_id": action_id, "after": after}).all()
    lines: list[LogLine] = []
    first_line, complete = after + 1, True
    for row in rows:
        if len(lines) >= _PAGE_LINES:
            complete = False
            break
        kept = _lines(row)
        start = row.last_line - len(kept) + 1
        if not lines:
            first_line = max(start, after + 1)
            kept = kept[first_line - start :]
        lines.extend(LogLine.from_json(line) for line in kept)
    return LogPage(first_line, tuple(lines), has_more=not complete or len(rows) == _PAGE_REPORTS)


def drop_oldest(connection: Connection, action_id: JobId, *, dropped: int, excess: int) -> None:
    """Drop the ``excess`` oldest lines that are left, after the ``dropped`` first ones went before."""
    last_to_drop = dropped + excess
    after = dropped
    while after < last_to_drop:
        rows = connection.execute(_AFTER, {"action_id": action_id, "after": after}).all()
        if not rows:
            return
        updates = []
        for row in rows:
            if row.last_line - row.log_count >= last_to_drop:
                break
            kept = _lines(row)[max(0, row.log_count - (row.last_line - last_to_drop)) :]
            updates.append(
                {
                    "report_id": row.id,
                    "logs": strict_json.dumps(kept) if kept else None,
                    "log_count": len(kept),
                    "last_line": row.last_line if kept else None,
                }
            )
        if updates:
            connection.execute(_SET_LOGS, updates)
        after = rows[-1].last_line


def _lines(row: Any) -> list[dict[str, Any]]:
    return json.loads(row.logs)  # type: ignore[no-any-return]
