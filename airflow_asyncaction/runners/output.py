# SPDX-License-Identifier: Apache-2.0
"""What a process writes, as lines: bytes come in any pieces, and memory stays bounded."""

from __future__ import annotations

import codecs
import os
import time
from collections import deque
from collections.abc import Callable

PIECE_CHARS = 64 * 1024
"""A line longer than this comes in pieces of this length."""

UPDATE_SECONDS = 1.0
"""How often at most a line that rewrites itself (a progress bar) is shown before its end."""

_HELD_CHARS = 4 * 1024
"""Characters held back of an unfinished line, so that a secret of this length is not split."""

READ_BYTES = 64 * 1024
BACKLOG_CHUNKS = 256


class LineSplitter:
    """Cuts one stream of UTF-8 into lines, the same ones however the bytes are chunked.

    A line ends with a newline, carriage returns before it included. A carriage return elsewhere means that
    the line is written anew: what stood there before is shown at most once in ``UPDATE_SECONDS``. What is
    not UTF-8 becomes U+FFFD.

    :param mask: takes the secrets out of a line, before it is cut into pieces
    """

    def __init__(self, mask: Callable[[str], str] = str) -> None:
        self._mask = mask
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""  # what no line end has come for
        self._returned = False  # ... but a carriage return
        self._updated_at: float | None = None

    def feed(self, data: bytes, now: float) -> list[str]:
        """Return the lines that are complete now.

        :param now: a monotonic clock, in seconds
        """
        text = self._decoder.decode(data)
        if "\r" in text or self._returned:
            return self._with_returns(text, now)
        *lines, rest = (self._rest + text).split("\n")
        pieces = [piece for line in lines for piece in self._pieces(line)]
        return pieces + self._keep(rest)

    def flush(self) -> list[str]:
        """Return what came after the last newline: there will not be any more."""
        rest = self._rest + self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._rest, self._returned = "", False
        return self._pieces(rest) if rest else []

    def _with_returns(self, text: str, now: float) -> list[str]:
        lines: list[str] = []
        for number, segment in enumerate(text.split("\n")):
            if number > 0:  # a newline stands before this segment
                lines.extend(self._pieces(self._rest))
                self._rest, self._returned = "", False
            self._add(segment, now, lines)
        return lines

    def _add(self, segment: str, now: float, lines: list[str]) -> None:
        """Add text without a newline, writing anew where it says so."""
        for number, piece in enumerate(segment.split("\r")):
            self._returned = self._returned or number > 0
            if not piece:
                continue
            if self._returned:
                self._update(now, lines)
            lines.extend(self._keep(self._rest + piece))

    def _update(self, now: float, lines: list[str]) -> None:
        due = self._updated_at is None or now - self._updated_at >= UPDATE_SECONDS
        if self._rest and due:
            lines.extend(self._pieces(self._rest))
            self._updated_at = now
        self._rest, self._returned = "", False

    def _keep(self, rest: str) -> list[str]:
        """Keep what has no end yet, but for the pieces that it has already: return them."""
        pieces: list[str] = []
        if len(rest) > PIECE_CHARS + _HELD_CHARS:
            rest = self._mask(rest)
        while len(rest) > PIECE_CHARS + _HELD_CHARS:
            pieces.append(rest[:PIECE_CHARS])
            rest = rest[PIECE_CHARS:]
        self._rest = rest
        return pieces

    def _pieces(self, line: str) -> list[str]:
        line = self._mask(line)
        if len(line) <= PIECE_CHARS:
            return [line]
        return [line[start : start + PIECE_CHARS] for start in range(0, len(line), PIECE_CHARS)]


class OutputPipe:
    """The reading end of a process's stdout or stderr.

    A signal handler may come in anywhere and call the same methods: bytes are read and kept in one step,
    and lines are cut by one frame at a time, so that none gets lost or out of order.
    """

    def __init__(self, name: str, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        os.set_blocking(fd, False)
        self.name = name
        self.fd = fd
        self.lines: deque[str] = deque()
        self.at_end = False
        self._clock = clock
        self._chunks: deque[bytes] = deque()
        self._splitter = LineSplitter()
        self._is_splitting = False

    def mask_with(self, mask: Callable[[str], str]) -> None:
        """Have the secrets taken out of lines; before anything is read."""
        self._splitter = LineSplitter(mask)

    @property
    def wants_reading(self) -> bool:
        """Whether there may be more, and there is room for it."""
        return not self.at_end and len(self._chunks) < BACKLOG_CHUNKS

    def receive(self) -> bool:
        """Read once without waiting; tell whether anything came, the end included."""
        try:
            # One call into C: no signal handler can come between reading and keeping.
            self._chunks.extend(map(os.read, (self.fd,), (READ_BYTES,)))
        except BlockingIOError:
            return False
        if self._chunks and not self._chunks[-1]:
            self.at_end = True
        return True

    def split(self) -> None:
        """Make lines of what was read, unless a frame below is doing it."""
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
        """Take what came after the last newline for a line: nothing more is waited for."""
        if not self._is_splitting:
            self.lines.extend(self._splitter.flush())
