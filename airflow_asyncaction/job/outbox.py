# SPDX-License-Identifier: Apache-2.0
"""The log lines that wait to be sent: as many as fit, the newest."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Sequence

from airflow_asyncaction.protocol.reports import Limits, LogLine, cut_line

LINE_BYTES = Limits().line_bytes - 64
"""A line is cut to this here, so that with its mark the server has nothing to cut."""

MAX_LOG_LINES = Limits().max_log_lines
MAX_KEPT_CHARS = 16 * 1024 * 1024
FULL_LINES = 500
FULL_CHARS = 512 * 1024
REPORT_LINES = Limits().report_log_lines
REPORT_BYTES = 900 * 1024


class Outbox:
    """A bounded queue of log lines. Any thread, and a signal handler, may use it.

    The oldest lines are dropped while the server is down or slow, as are lines on which it fails. One line
    replaces them and says how many.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._lines: deque[LogLine] = deque()
        self._chars = 0
        self._dropped = 0
        self._report_lines = REPORT_LINES
        self._report_bytes = REPORT_BYTES

    def __bool__(self) -> bool:
        return bool(self._lines) or self._dropped > 0

    @property
    def is_full(self) -> bool:
        """Whether there is enough for a report of its own."""
        return len(self._lines) >= FULL_LINES or self._chars >= FULL_CHARS

    def add(self, line: LogLine) -> None:
        """Append a line, in place of the oldest if there are too many."""
        with self._lock:
            self._lines.append(line)
            self._chars += len(line.message)
            while len(self._lines) > MAX_LOG_LINES or self._chars > MAX_KEPT_CHARS:
                self._pop()
                self._dropped += 1

    def take(self, *, less_bytes: int = 0) -> list[LogLine]:
        """Remove and return the oldest lines, as many as one report holds.

        :param less_bytes: what else the report holds
        """
        taken: list[LogLine] = []
        with self._lock:
            room = self._report_bytes - less_bytes
            if self._dropped and room > 0:
                text = (
                    f"[{self._dropped} lines were dropped here: the server was away, too slow for them, or"
                    " failed on them]"
                )
                taken.append(LogLine(text, "WARNING"))
                self._dropped = 0
            while self._lines and len(taken) < self._report_lines:
                room -= len(encode(self._lines[0])) + 1
                if room < 0 and (taken or less_bytes):
                    break
                taken.append(self._pop())
        return taken

    def take_fewer(self) -> None:
        """Take half as many lines as before from now on: the server found them too many."""
        with self._lock:
            self._report_lines = max(1, self._report_lines // 2)
            self._report_bytes = max(LINE_BYTES, self._report_bytes // 2)

    def put_back(self, lines: Sequence[LogLine]) -> None:
        """Return lines that were taken, but not in turn."""
        with self._lock:
            self._lines.extendleft(reversed(lines))
            self._chars += sum(len(line.message) for line in lines)

    def give_up(self, lines: Sequence[LogLine]) -> None:
        """Count lines that were taken as dropped."""
        with self._lock:
            self._dropped += len(lines)

    def _pop(self) -> LogLine:
        line = self._lines.popleft()
        self._chars -= len(line.message)
        return line


def encode(line: LogLine) -> bytes:
    """Return a line as JSON."""
    return json.dumps(line.to_json(), ensure_ascii=False, separators=(",", ":")).encode()


def tidy(text: str) -> str:
    """Return a text as it can be sent: without lone surrogates, and not too long."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return cut_line(text, LINE_BYTES)
