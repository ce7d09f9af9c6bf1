# SPDX-License-Identifier: Apache-2.0
"""Output of a wrapped program: passed through byte for byte, and split into log lines."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import threading
import time
from collections.abc import Callable

from airflow_asyncaction.job.outgoing_reports import LINE_BYTES
from airflow_asyncaction.protocol.reports import cut_mark

CHUNK_BYTES = 64 * 1024

_MAX_WAIT_PERIODS = 6
"""How long to wait for output that goes on, in quiet periods."""


class OutputLineSplitter:
    """Splits a byte stream into text lines, in constant memory. Pure: no I/O.

    If a line overwrites itself with carriage returns (a progress bar), only its last state is used, as on a
    terminal. Lines longer than ``LINE_BYTES`` are cut and marked. Invalid UTF-8 becomes U+FFFD.
    """

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._kept = bytearray()
        self._size = 0
        self._has_return = False

    def feed(self, data: bytes) -> None:
        """Add the next bytes."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._append(line)
            self._end_line()
        self._append(rest)

    def close(self) -> None:
        """Emit the last line, even if it has no newline."""
        if self._size:
            self._end_line()

    def _append(self, part: bytes) -> None:
        body = part.rstrip(b"\r")
        if body:
            visible = body.rpartition(b"\r")[2]
            if self._has_return or len(visible) < len(body):  # it overwrites what came before
                self._kept.clear()
                self._size = 0
            room = LINE_BYTES - len(self._kept)
            if room > 0:
                self._kept += visible[:room]
            self._size += len(visible)
        if part:
            self._has_return = len(body) < len(part)

    def _end_line(self) -> None:
        is_cut = self._size > len(self._kept)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(bytes(self._kept), final=not is_cut)  # no partial character before the mark
        if is_cut:
            text += cut_mark(self._size)
        self._kept.clear()
        self._size, self._has_return = 0, False
        self._emit(text)


class Pump(threading.Thread):
    """Copies one output stream of the program until its end.

    Only the reader of the wrapper's own output can slow it down. If that reader closes the stream, the
    program gets SIGPIPE or EPIPE, as it would without the wrapper.

    :param source: file descriptor to read; it is closed at the end
    :param target: file descriptor to write
    """

    def __init__(self, source: int, target: int, emit: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._target = target
        self._lines = OutputLineSplitter(emit)
        self._reading_since: float | None = time.monotonic()  # None while it waits for the reader

    def run(self) -> None:
        """Copy until the source ends or the target is closed."""
        with contextlib.suppress(OSError):
            while data := os.read(self._source, CHUNK_BYTES):
                self._reading_since = None
                write_all(self._target, data)
                self._lines.feed(data)
                self._reading_since = time.monotonic()
        os.close(self._source)
        self._lines.close()

    def finish(self, since: float, quiet_seconds: float) -> None:
        """Wait for the end of the source, or until it is quiet: an orphaned child may keep it open.

        The wait is limited for a child that keeps writing, but not for a slow reader.

        :param since: monotonic time at which the program ended
        :param quiet_seconds: how long without output counts as quiet
        """
        while self.is_alive():
            reading_since = self._reading_since
            if reading_since is not None:
                latest = since + quiet_seconds * _MAX_WAIT_PERIODS
                if time.monotonic() >= min(max(since, reading_since) + quiet_seconds, latest):
                    return
            self.join(0.1)


def write_all(target: int, data: bytes) -> None:
    """Write all data, even to a non-blocking descriptor.

    :raises OSError: the reader has closed it
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            select.select([], [target], [])
