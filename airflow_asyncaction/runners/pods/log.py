# SPDX-License-Identifier: Apache-2.0
"""A container's log: each line once, the last ones included, whatever breaks on the way.

The decisions (:class:`LogReader`, :func:`log_steps`) do no I/O; the worker drives them with threads
(``log_thread``), the triggerer with asyncio.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

MAX_LINE_BYTES = 64 * 1024
"""Longer lines are cut, and say so."""

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NS = 1_000_000_000
_SLACK_NS = 100_000_000  # stdout and stderr are stamped one by one, and may be written in another order
_BURST_BYTES = 32 * 1024  # more than this in the last seconds, and the container runtime may be late with it
_QUIET_SECONDS = 0.25
_QUIET_AFTER_BURST_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0
_GIVE_UP_SECONDS = 30.0
_SINCE_MARGIN_SECONDS = 2


@dataclass(frozen=True)
class LogPosition:
    """How far a log was read.

    :param stamp: the newest time stamp: UTC with nine decimals and ``Z``; empty: nothing was read
    :param of_stamp: how many lines with this stamp were read
    """

    stamp: str = ""
    of_stamp: int = 0

    def to_json(self) -> list[Any]:
        """Return it as a JSON array."""
        return [self.stamp, self.of_stamp]

    @classmethod
    def from_json(cls, value: list[Any]) -> LogPosition:
        """Return what :meth:`to_json` was called on."""
        stamp, of_stamp = value
        return cls(str(stamp), int(of_stamp))


@dataclass(frozen=True)
class PodLine:
    """One line of a log, and when the container wrote it."""

    time: datetime
    text: str


class Outcome(Enum):
    """What became of a read."""

    ENDED = "ended"  # all there is was read, or the reader was interrupted since the container has ended
    BROKE = "broke"  # the connection broke, or the cluster is away
    ABSENT = "absent"  # there is no such log: the container was not started, or the pod is gone (400, 404)


@dataclass(frozen=True)
class Read:
    """Read the log with time stamps, feed it to the reader, and send the :class:`Outcome`.

    :param follow: go on with what is written later, until the container has ended
    :param since_seconds: leave out what is older; ``None``: read all
    """

    follow: bool
    since_seconds: int | None


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


class LogReader:
    """Makes lines of the bytes of a log that is read again and again.

    How it works: :meth:`begin` each read, :meth:`feed` it; lines that came before are known by their stamps:
    what is older than the newest one but for a little is known; what is not so old is compared. A read that
    does not reach back to a known line might leave some out (clocks differ): it :attr:`has_gap`, yields
    nothing, and all must be read.

    What it does not do: take what has no time stamp for a line; that is the kubelet's word.
    """

    def __init__(self, position: LogPosition = LogPosition()) -> None:
        self.position = position
        self.count = 0
        """How many lines were yielded."""
        self.has_gap = False
        """Whether this read does not reach back far enough: it may be ended."""
        self.is_refused = False
        """Whether it was said that the cluster refuses the log."""
        self._before_ns = _ns_of(position.stamp) if position.stamp else -1
        self._of_before = position.of_stamp
        self._newest_ns = self._before_ns
        self._recent: deque[tuple[int, int]] = deque()
        self._recent_counts: Counter[tuple[int, int]] = Counter()
        self._burst: deque[tuple[int, int]] = deque([(0, 0)], maxlen=2)  # (second, bytes)
        self.begin(reads_all=True)

    @property
    def is_busy(self) -> bool:
        """Whether more may be to come: much came last, or the last line is not whole."""
        second = self._newest_ns // _SECOND_NS
        size = sum(size for at, size in self._burst if at >= second - 1)
        return bool(self._rest) or size > _BURST_BYTES

    @property
    def is_behind(self) -> bool:
        """Whether this read has come to no known line, though there are some: see :attr:`has_gap`."""
        return self.has_gap or not self._reaches_back

    def since_seconds(self, now: datetime) -> int | None:
        """Return what to read with, to get what is new and a little more."""
        if self._newest_ns < 0:
            return None
        age_seconds = (now - _moment(self._newest_ns)).total_seconds()
        return math.ceil(max(0.0, age_seconds)) + _SINCE_MARGIN_SECONDS

    def begin(self, *, reads_all: bool) -> None:
        """Begin to read, again perhaps. What was left of a line is dropped: it comes again."""
        self._rest = bytearray()
        self._cut_bytes = 0
        self._reaches_back = reads_all or self._newest_ns < 0
        self.has_gap = False
        self._known = self._recent_counts.copy()
        self._known_until_ns = max(self._before_ns, self._newest_ns - _SLACK_NS)
        self._known_of_before = self._of_before

    def feed(self, chunk: bytes) -> Iterator[PodLine]:
        """Yield the lines that are whole, and new."""
        start = 0
        while not self.has_gap and (end := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk[start:end])
            yield from self._completed()
            start = end + 1
        self._keep(chunk[start:])

    def finish(self) -> Iterator[PodLine]:
        """Yield what is left as a line: the log has ended."""
        if not self.has_gap:
            yield from self._completed()

    def _keep(self, part: bytes) -> None:
        room = MAX_LINE_BYTES + 64 - len(self._rest)
        self._rest += part[: max(0, room)]
        self._cut_bytes += max(0, len(part) - max(0, room))

    def _completed(self) -> Iterator[PodLine]:
        stamp, _, said = bytes(self._rest).partition(b" ")
        cut_bytes = self._cut_bytes + max(0, len(said) - MAX_LINE_BYTES)
        self._rest.clear()
        self._cut_bytes = 0
        try:
            ns = _ns_of(stamp.decode("ascii"))
        except ValueError:
            return
        text = said[:MAX_LINE_BYTES].decode("utf-8", "replace").removesuffix("\r")
        if cut_bytes:
            text += f" [{cut_bytes} bytes are cut]"
        if self._is_new(ns, text):
            self._note(ns, text)
            yield PodLine(_moment(ns), text)

    def _is_new(self, ns: int, text: str) -> bool:
        if not self._reaches_back:
            self._reaches_back = ns <= self._newest_ns
            self.has_gap = not self._reaches_back
        if self.has_gap or ns < self._known_until_ns:
            return False
        if ns == self._before_ns and self._known_of_before > 0:
            self._known_of_before -= 1
            return False
        key = (ns, hash(text))
        if self._known[key] > 0:
            self._known[key] -= 1
            return False
        return True

    def _note(self, ns: int, text: str) -> None:
        of_stamp = 1
        if ns > self._newest_ns:
            self._newest_ns = ns
        elif ns == self._newest_ns:
            of_stamp = self.position.of_stamp + 1
        else:  # a straggler
            of_stamp = self.position.of_stamp
        self.position = LogPosition(_stamp_of(self._newest_ns), of_stamp)
        self.count += 1
        self._remember((ns, hash(text)))
        second, size = self._burst[-1]
        if ns // _SECOND_NS > second:
            self._burst.append((ns // _SECOND_NS, len(text)))
        else:
            self._burst[-1] = (second, size + len(text))

    def _remember(self, key: tuple[int, int]) -> None:
        self._recent.append(key)
        self._recent_counts[key] += 1
        while self._recent[0][0] < self._newest_ns - _SLACK_NS:
            old = self._recent.popleft()
            self._recent_counts[old] -= 1
            if not self._recent_counts[old]:
                del self._recent_counts[old]


def log_steps(
    reader: LogReader,
    has_ended: Callable[[], bool],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Generator[Read | Pause, Outcome | None, None]:
    """Yield what to do next to read a log to its end; send the outcome of each :class:`Read`.

    When the container ends, a read that follows should be interrupted (and count as ended): some clusters
    notice only after seconds. The runtime may still be copying the last output: it is read until it was
    quiet.

    :param has_ended: whether the container has
    """
    pause = _FIRST_PAUSE_SECONDS
    reads_all = False
    news_at = failing_since = now()
    while True:
        is_over, before = has_ended(), reader.count
        outcome = yield Read(
            follow=not is_over, since_seconds=None if reads_all else reader.since_seconds(now())
        )
        if reader.count > before or not is_over:
            news_at = now()
        if reader.count > before:
            pause = _FIRST_PAUSE_SECONDS
        reads_all = reader.has_gap or (is_over and outcome is Outcome.ENDED and reader.is_behind)
        if reads_all:
            continue
        if outcome is Outcome.ENDED or not is_over:
            failing_since = now()
        if is_over and _is_enough(reader, outcome, quiet=now() - news_at, failing=now() - failing_since):
            return
        if is_over or not has_ended():
            yield Pause(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _is_enough(reader: LogReader, outcome: Outcome | None, *, quiet: timedelta, failing: timedelta) -> bool:
    """Tell whether the log of a container that has ended was read to its end, or cannot be."""
    if outcome is Outcome.ENDED:
        return quiet.total_seconds() >= (_QUIET_AFTER_BURST_SECONDS if reader.is_busy else _QUIET_SECONDS)
    return outcome is Outcome.ABSENT or failing.total_seconds() >= _GIVE_UP_SECONDS


@functools.lru_cache(maxsize=16)
def _second(moment: str, zone: str) -> int:
    """Return seconds since 1970 of a moment without its fraction.

    :raises ValueError: there is no such moment
    """
    second = (datetime.fromisoformat(moment + zone.replace("Z", "+00:00")) - _EPOCH) // timedelta(seconds=1)
    if second < 0:
        raise ValueError(f"{moment} is before 1970")
    return second


def _ns_of(stamp: str) -> int:
    """Return nanoseconds since 1970. Stamps are compared so: their zeros at the end may be left out.

    :raises ValueError: this is no time stamp
    """
    parts = _STAMP.fullmatch(stamp)
    if parts is None:
        raise ValueError(f"{stamp!r} is no time stamp")
    moment, fraction, zone = parts.groups()
    return _second(moment, zone) * _SECOND_NS + int((fraction or "").ljust(9, "0"))


def _moment(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)


def _stamp_of(ns: int) -> str:
    second, fraction = divmod(ns, _SECOND_NS)
    return f"{_moment(second * _SECOND_NS):%Y-%m-%dT%H:%M:%S}.{fraction:09}Z"
