# SPDX-License-Identifier: Apache-2.0
"""Log lines of actions: stored in report rows, numbered from 1, the oldest dropped beyond the limits.

``log_lines_dropped`` is the number of the last dropped line. Dropped lines are hidden at once. A report row
is cleared when all its lines are dropped, so that dropping lines does not require reading any.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import LogLine
from airflow_asyncaction.store.models import report_table

_PAGE_REPORTS = 100
_PAGE_LINES = 2000
_PAGE_BYTES = 1024 * 1024

_columns = report_table.c
_SIZE = func.coalesce(_columns.log_bytes, func.length(_columns.logs))  # earlier releases did not store it
_AFTER = (
    select(_columns.id, _columns.last_line, _columns.log_count, _SIZE.label("size_bytes"))
    .where(_columns.action_id == bindparam("action_id"), _columns.last_line > bindparam("after"))
    .order_by(_columns.last_line)
    .limit(_PAGE_REPORTS)
)
_LOGS = (
    select(_columns.last_line, _columns.log_count, _columns.logs)
    .where(_columns.id.in_(bindparam("ids", expanding=True)), _columns.logs.is_not(None))
    .order_by(_columns.last_line)
)
_DROPPED = (_columns.action_id == bindparam("action_id_"), _columns.last_line <= bindparam("dropped"))
_SIZE_OF_DROPPED = select(func.coalesce(func.sum(_SIZE), 0)).where(*_DROPPED)
_FREE = update(report_table).where(*_DROPPED).values(logs=None, log_bytes=None, log_count=0, last_line=None)


@dataclass(frozen=True)
class LogPage:
    """A page of log lines, in order.

    :param first_line: number of the first line; lines between the requested one and this one were dropped
    :param has_more: whether more lines follow
    """

    first_line: int
    lines: tuple[LogLine, ...]
    has_more: bool

    @property
    def last_line(self) -> int:
        """Number of the last line; the next page starts after it."""
        return self.first_line + len(self.lines) - 1


@dataclass(frozen=True)
class Appended:
    """Log lines appended to those of an action.

    :param logs: the new lines as they are stored in a report row
    :param count: number of new lines
    :param last_line: number of the last one
    :param kept_bytes: size of all stored lines of the action, unless older ones are dropped
    """

    logs: str
    count: int
    last_line: int
    kept_bytes: int

    @classmethod
    def to(cls, row: Any, lines: Sequence[LogLine]) -> Appended:
        """Append lines to those of an action.

        :param row: row of ``async_action`` before
        """
        logs = encode(lines)
        return cls(logs, len(lines), row.log_lines + len(lines), (row.log_bytes or 0) + len(logs))

    @property
    def size_bytes(self) -> int:
        """Size of the new lines."""
        return len(self.logs)

    def exceeds_limits(self, row: Any, *, max_log_bytes: int) -> bool:
        """Return whether lines have to be dropped."""
        return self.last_line - row.log_lines_dropped > row.max_log_lines or self.kept_bytes > max_log_bytes

    @property
    def report_columns(self) -> dict[str, Any]:
        """Columns of the report row."""
        return {
            "logs": self.logs,
            "log_bytes": self.size_bytes,
            "log_count": self.count,
            "last_line": self.last_line,
        }

    @property
    def action_columns(self) -> dict[str, Any]:
        """Changed columns of the action, unless lines are dropped."""
        return {"log_lines": self.last_line, "log_bytes": self.kept_bytes}


def encode(lines: Sequence[LogLine]) -> str:
    """Return the lines as they are stored in a report row: JSON in ASCII."""
    return strict_json.dumps([line.to_json() for line in lines])


def page(connection: Connection, action_id: JobId, after: int, *, dropped: int) -> LogPage:
    """Return the lines after line number ``after``: up to 2000 lines or 1 MiB, or the lines of one report.

    :param dropped: number of the last dropped line of the action
    """
    begin = max(after, dropped, 0)
    while found := connection.execute(_AFTER, {"action_id": action_id, "after": begin}).all():
        taken = _first_page(found)
        kept = connection.execute(_LOGS, {"ids": [row.id for row in taken]}).all()
        if kept:
            lines = [LogLine.from_json(line) for row in kept for line in json.loads(row.logs)]
            first_line = kept[0].last_line - kept[0].log_count + 1
            hidden = max(0, begin + 1 - first_line)
            has_more = len(taken) < len(found) or len(found) == _PAGE_REPORTS
            return LogPage(first_line + hidden, tuple(lines[hidden:]), has_more)
        begin = taken[-1].last_line  # all were freed between the two statements
    return LogPage(max(after, 0) + 1, (), has_more=False)


def drop_for_bytes(connection: Connection, action_id: JobId, *, excess_bytes: int) -> int:
    """Return the number of the last line to drop to free ``excess_bytes``."""
    last_line = 0
    while excess_bytes > 0:
        found = connection.execute(_AFTER, {"action_id": action_id, "after": last_line}).all()
        for row in found:
            if excess_bytes <= 0:
                break
            last_line, excess_bytes = row.last_line, excess_bytes - row.size_bytes
        if len(found) < _PAGE_REPORTS:
            break
    return last_line


def free(connection: Connection, action_id: JobId, *, dropped: int) -> int:
    """Clear reports whose lines are all dropped, and return the number of bytes freed."""
    known = {"action_id_": action_id, "dropped": dropped}
    size_bytes = connection.scalar(_SIZE_OF_DROPPED, known)
    if size_bytes:
        connection.execute(_FREE, known)
    return int(size_bytes or 0)


def _first_page(found: Sequence[Any]) -> list[Any]:
    """Return the reports that fit on a page, at least one."""
    taken: list[Any] = []
    lines = size_bytes = 0
    for row in found:
        lines, size_bytes = lines + row.log_count, size_bytes + row.size_bytes
        if taken and (lines > _PAGE_LINES or size_bytes > _PAGE_BYTES):
            break
        taken.append(row)
    return taken
