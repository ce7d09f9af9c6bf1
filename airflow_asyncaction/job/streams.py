# SPDX-License-Identifier: Apache-2.0
"""A wrapped program's output: passed on byte for byte, and cut into log lines on the side."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import threading
import time
from collections.abc import Callable

from airflow_asyncaction.job.outbox import LINE_BYTES
from airflow_asyncaction.protocol.reports import cut_mark

CHUNK_BYTES = 64 * 1024

_LOUD_TIMES = 6


class LogLineSplitter:
    """Cuts a byte stream into text lines, in constant memory. Pure: no I/O.

    Of a line that overwrites itself with carriage returns (a progress bar) the last state is the line, as on
    a terminal. A line too long is cut, and marked. What is no UTF-8 becomes U+FFFD.
    """

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._kept = bytearray()
        self._size = 0
        self._has_return = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes, cut anywhere."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._append(line)
            self._end_line()
        self._append(rest)

    def close(self) -> None:
        """Take what is left as a line, though it has no newline."""
        if self._size:
            self._end_line()

    def _append(self, part: bytes) -> None:
        body = part.rstrip(b"\r")
        if body:
            shown = body.rpartition(b"\r")[2]
            if self._has_return or len(shown) < len(body):  # it overwrites what was there
                self._kept.clear()
                self._size = 0
            room = LINE_BYTES - len(self._kept)
            if room > 0:
                self._kept += shown[:room]
            self._size += len(shown)
        if part:
            self._has_return = len(body) < len(part)

    def _end_line(self) -> None:
        is_cut = self._size > len(self._kept)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(bytes(self._kept), final=not is_cut)  # not half a character before the mark
        if is_cut:
            text += cut_mark(self._size)
        self._kept.clear()
        self._size, self._has_return = 0, False
        self._emit(text)


class Pump(threading.Thread):
    """Passes one stream of a program on until its end.

    It waits for nobody but the reader of our own output. When that reader is gone, so is the program's: it
    gets SIGPIPE or EPIPE, as it would without us.

    :param source: file descriptor, read and closed here
    :param target: file descriptor
    """

    def __init__(self, source: int, target: int, emit: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._target = target
        self._lines = LogLineSplitter(emit)
        self._reading_since: float | None = time.monotonic()  # None: it waits for its reader

    def run(self) -> None:
        """Pass on, until the end of the source or of the target."""
        with contextlib.suppress(OSError):
            while data := os.read(self._source, CHUNK_BYTES):
                self._reading_since = None
                write_all(self._target, data)
                self._lines.feed(data)
                self._reading_since = time.monotonic()
        os.close(self._source)
        self._lines.close()

    def finish(self, since: float, quiet_seconds: float) -> None:
        """Wait for the end of the source, or until it is quiet: a child left behind may hold it open.

        Nor is one that writes on waited for for ever; but a slow reader is.

        :param since: when the program ended, by the monotonic clock
        """
        while self.is_alive():
            reading_since = self._reading_since
            if reading_since is not None:
                latest = since + quiet_seconds * _LOUD_TIMES
                if time.monotonic() >= min(max(since, reading_since) + quiet_seconds, latest):
                    return
            self.join(0.1)


def write_all(target: int, data: bytes) -> None:
    """Write it all, also to a descriptor that somebody made non-blocking.

    :raises OSError: nobody reads it
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            select.select([], [target], [])
