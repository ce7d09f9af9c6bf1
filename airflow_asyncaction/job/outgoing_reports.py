# SPDX-License-Identifier: Apache-2.0
"""Outgoing reports: the bounded queue of log lines, and the reports that carry them."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_asyncaction.job.transport import Request
from airflow_asyncaction.protocol.reports import Limits, LogLine, cut_line

LINE_BYTES = Limits().line_bytes - 64
"""Size to which lines are cut. It leaves room for the mark, so that the server does not cut them again."""

MAX_LOG_LINES = Limits().max_log_lines
_MAX_QUEUED_CHARS = 16 * 1024 * 1024
_FULL_LINES = 500
_FULL_CHARS = 512 * 1024
_REPORT_LINES = Limits().report_log_lines
_REPORT_BYTES = 900 * 1024


class LogQueue:
    """Bounded queue of log lines. Threads and signal handlers may use it.

    If the server is down or slow, the oldest lines are dropped, and so are lines that cause server errors. A
    line in their place states how many.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._lines: deque[LogLine] = deque()
        self._chars = 0
        self._dropped = 0
        self._report_lines = _REPORT_LINES
        self._report_bytes = _REPORT_BYTES

    def __bool__(self) -> bool:
        return bool(self._lines) or self._dropped > 0

    @property
    def is_full(self) -> bool:
        """Whether there are enough lines for a report."""
        return len(self._lines) >= _FULL_LINES or self._chars >= _FULL_CHARS

    def add(self, line: LogLine) -> None:
        """Append a line. Drop the oldest lines if there are too many."""
        with self._lock:
            self._lines.append(line)
            self._chars += len(line.message)
            while len(self._lines) > MAX_LOG_LINES or self._chars > _MAX_QUEUED_CHARS:
                self._pop()
                self._dropped += 1

    def take(self, *, reserved_bytes: int = 0) -> list[LogLine]:
        """Remove and return the oldest lines, as many as fit into one report.

        :param reserved_bytes: size of the report without its lines
        """
        taken: list[LogLine] = []
        with self._lock:
            room = self._report_bytes - reserved_bytes
            if self._dropped and room > 0:
                lines = "1 line was" if self._dropped == 1 else f"{self._dropped} lines were"
                text = (
                    f"[{lines} dropped here: the server was unreachable, too slow, or failed to process them]"
                )
                taken.append(LogLine(text, "WARNING"))
                self._dropped = 0
            while self._lines and len(taken) < self._report_lines:
                room -= len(_encode_line(self._lines[0])) + 1
                if room < 0 and (taken or reserved_bytes):
                    break
                taken.append(self._pop())
        return taken

    def halve_reports(self) -> None:
        """Halve the size of future reports, because a report was too large for the server."""
        with self._lock:
            self._report_lines = max(1, self._report_lines // 2)
            self._report_bytes = max(LINE_BYTES, self._report_bytes // 2)

    def put_back(self, lines: Sequence[LogLine]) -> None:
        """Put lines back at the front of the queue."""
        with self._lock:
            self._lines.extendleft(reversed(lines))
            self._chars += sum(len(line.message) for line in lines)

    def count_dropped(self, lines: Sequence[LogLine]) -> None:
        """Count lines as dropped that were taken but could not be sent."""
        with self._lock:
            self._dropped += len(lines)

    def _pop(self) -> LogLine:
        line = self._lines.popleft()
        self._chars -= len(line.message)
        return line


@dataclass(frozen=True)
class OutgoingReport:
    """A report that is kept with its nonce until the server responds.

    :param terminal: fields of the job's end, if this is the terminal report
    """

    request: Request
    fields: Mapping[str, Any]
    lines: Sequence[LogLine]
    terminal: Mapping[str, Any] | None

    @classmethod
    def of(
        cls, fields: Mapping[str, Any], lines: Sequence[LogLine], terminal: Mapping[str, Any] | None
    ) -> OutgoingReport:
        """Return a report with a new nonce. ``fields`` must include those of ``terminal``."""
        return cls(Request("POST", "/status", encode_report(fields, lines)), fields, lines, terminal)

    @property
    def is_heartbeat(self) -> bool:
        """Whether the report is empty."""
        return not self.fields and not self.lines

    @property
    def can_be_skipped(self) -> bool:
        """Whether it may be skipped to let later reports through. A terminal report only loses log lines."""
        return not self.is_heartbeat and (self.terminal is None or bool(self.lines))


def encode_report(fields: Mapping[str, Any], lines: Sequence[LogLine] = ()) -> bytes:
    """Serialize a report. The body of a heartbeat is empty."""
    if not fields and not lines:
        return b""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    head = text.encode("utf-8", "replace")  # host names may contain lone surrogates
    if not lines:
        return head
    comma = b"," if fields else b""
    return head[:-1] + comma + b'"logs":[' + b",".join(map(_encode_line, lines)) + b"]}"


def _encode_line(line: LogLine) -> bytes:
    return json.dumps(line.to_json(), ensure_ascii=False, separators=(",", ":")).encode()


def clean_text(text: str) -> str:
    """Replace lone surrogates in a text, and cut it to the size of a line."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return cut_line(text, LINE_BYTES)
