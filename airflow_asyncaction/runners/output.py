# SPDX-License-Identifier: Apache-2.0
"""Output of a process: splits its bytes into lines, with bounded memory."""

from __future__ import annotations

import codecs
import os
import time
from collections import deque
from collections.abc import Callable

PIECE_CHARS = 64 * 1024
"""Longer lines are split into pieces of this length."""

UPDATE_SECONDS = 1.0
"""Minimum interval at which a line that overwrites itself (a progress bar) is shown before its end."""

_HELD_CHARS = 4 * 1024
"""Characters of an unfinished line that are held back, so that a secret of this length is not split."""

READ_BYTES = 64 * 1024
BACKLOG_CHUNKS = 256


class OutputSplitter:
    """Splits a stream of UTF-8 into lines, the same ones however the bytes are chunked.

    A line ends with a newline; carriage returns before it are dropped. A carriage return elsewhere means that
    the line is overwritten: what it contained before is shown at most once per ``UPDATE_SECONDS``. Invalid
    UTF-8 becomes U+FFFD.

    :param mask: removes secrets from a line, before it is split into pieces
    """

    def __init__(self, mask: Callable[[str], str] = str) -> None:
        self._mask = mask
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""  # the unfinished line
        self._returned = False  # whether a carriage return followed it
        self._updated_at: float | None = None

    def feed(self, data: bytes, now: float) -> list[str]:
        """Return the lines that the data completes.

        :param now: a monotonic clock, in seconds
        """
        text = self._decoder.decode(data)
        if "\r" in text or self._returned:
            return self._feed_with_returns(text, now)
        *lines, rest = (self._rest + text).split("\n")
        pieces = [piece for line in lines for piece in self._split_pieces(line)]
        return pieces + self._hold_back(rest)

    def flush(self) -> list[str]:
        """Return the unfinished last line. Call this when the stream has ended."""
        rest = self._rest + self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._rest, self._returned = "", False
        return self._split_pieces(rest) if rest else []

    def _feed_with_returns(self, text: str, now: float) -> list[str]:
        lines: list[str] = []
        for number, segment in enumerate(text.split("\n")):
            if number > 0:  # there is a newline before this segment
                lines.extend(self._split_pieces(self._rest))
                self._rest, self._returned = "", False
            self._add(segment, now, lines)
        return lines

    def _add(self, segment: str, now: float, lines: list[str]) -> None:
        """Add text without a newline. After a carriage return, it overwrites the line."""
        for number, piece in enumerate(segment.split("\r")):
            self._returned = self._returned or number > 0
            if not piece:
                continue
            if self._returned:
                self._update(now, lines)
            lines.extend(self._hold_back(self._rest + piece))

    def _update(self, now: float, lines: list[str]) -> None:
        due = self._updated_at is None or now - self._updated_at >= UPDATE_SECONDS
        if self._rest and due:
            lines.extend(self._split_pieces(self._rest))
            self._updated_at = now
        self._rest, self._returned = "", False

    def _hold_back(self, rest: str) -> list[str]:
        """Keep an unfinished line, and return the pieces that it has already filled."""
        pieces: list[str] = []
        if len(rest) > PIECE_CHARS + _HELD_CHARS:
            rest = self._mask(rest)
        while len(rest) > PIECE_CHARS + _HELD_CHARS:
            pieces.append(rest[:PIECE_CHARS])
            rest = rest[PIECE_CHARS:]
        self._rest = rest
        return pieces

    def _split_pieces(self, line: str) -> list[str]:
        line = self._mask(line)
        if len(line) <= PIECE_CHARS:
            return [line]
        return [line[start : start + PIECE_CHARS] for start in range(0, len(line), PIECE_CHARS)]


class OutputPipe:
    """Read end of a process's stdout or stderr.

    A signal handler may interrupt any method and call the same methods. So bytes are read and stored in one
    step, and only one frame at a time splits lines: none is lost or out of order.
    """

    def __init__(self, name: str, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        os.set_blocking(fd, False)
        self.name = name
        self.fd = fd
        self.lines: deque[str] = deque()
        self.at_end = False
        self._clock = clock
        self._chunks: deque[bytes] = deque()
        self._splitter = OutputSplitter()
        self._is_splitting = False

    def mask_with(self, mask: Callable[[str], str]) -> None:
        """Remove secrets from lines. Call this before anything is read."""
        self._splitter = OutputSplitter(mask)

    @property
    def wants_reading(self) -> bool:
        """Whether there may be more output, and room for it."""
        return not self.at_end and len(self._chunks) < BACKLOG_CHUNKS

    def receive(self) -> bool:
        """Read once without blocking; return whether anything was read, even the end of file."""
        try:
            # One call into C: no signal handler can run between reading and storing.
            self._chunks.extend(map(os.read, (self.fd,), (READ_BYTES,)))
        except BlockingIOError:
            return False
        if self._chunks and not self._chunks[-1]:
            self.at_end = True
        return True

    def split(self) -> None:
        """Split what was read into lines, unless an outer frame is doing so."""
        if self._is_splitting:
            return
        self._is_splitting = True
        try:
            while self._chunks:
                chunk = self._chunks.popleft()
                self.lines.extend(self._splitter.feed(chunk, self._clock()))
        finally:
            self._is_splitting = False

    def flush(self) -> None:
        """Append the unfinished last line. Call this when the output has ended."""
        if not self._is_splitting:
            self.lines.extend(self._splitter.flush())
