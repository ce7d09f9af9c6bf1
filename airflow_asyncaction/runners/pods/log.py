# SPDX-License-Identifier: Apache-2.0
"""Container log reader: yields each line exactly once, across broken connections. No I/O.

``runners.pods.container_logs`` drives it in a worker, ``triggers.pods.container_logs`` in a triggerer.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from airflow_asyncaction.retrying import ExponentialBackoff
from airflow_asyncaction.runners.pods.api_requests import ClusterError, ClusterRefused

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 * 1024
"""Longer lines are truncated, and say so."""

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NS = 1_000_000_000
_SLACK_NS = 100_000_000  # stdout and stderr get their time stamps separately, and may be out of order
_BURST_BYTES = 32 * 1024  # after more output than this within two seconds, the runtime may lag behind
_QUIET_SECONDS = 0.25
_QUIET_AFTER_BURST_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0
_GIVE_UP_SECONDS = 30.0
_SINCE_MARGIN_SECONDS = 2
_NO_LOG = (400, 404)


@dataclass(frozen=True)
class LogPosition:
    """How far a log was read.

    :param stamp: the newest time stamp, UTC with nine decimals and ``Z``; empty if nothing was read
    :param lines_at_stamp: how many lines with this time stamp were read
    """

    stamp: str = ""
    lines_at_stamp: int = 0

    def to_json(self) -> list[Any]:
        """Return the position as a JSON array."""
        return [self.stamp, self.lines_at_stamp]

    @classmethod
    def from_json(cls, value: list[Any]) -> LogPosition:
        """Return the position from a JSON array made by :meth:`to_json`."""
        stamp, lines_at_stamp = value
        return cls(str(stamp), int(lines_at_stamp))


@dataclass(frozen=True)
class PodLine:
    """A line of a log, and when the container wrote it."""

    time: datetime
    text: str


class LogReadResult(Enum):
    """How a read ended."""

    ENDED = "ended"  # everything was read, or the read was interrupted because the container has ended
    BROKE = "broke"  # the connection broke, or the cluster is unavailable
    ABSENT = "absent"  # no log exists: the container was not started, or the pod is gone (400, 404)


@dataclass(frozen=True)
class ReadLog:
    """Read the log with time stamps, feed it to the reader, and send the :class:`LogReadResult`.

    :param follow: keep reading new lines until the container has ended
    :param since_seconds: leave out older lines; ``None``: read all
    """

    follow: bool
    since_seconds: int | None = None

    @property
    def reads_all(self) -> bool:
        """Whether the log is read from its beginning."""
        return self.since_seconds is None


@dataclass(frozen=True)
class Pause:
    """Wait before the next step."""

    seconds: float


class LogReader:
    """Splits the bytes of a log into lines, and drops those that an earlier read has returned.

    How it works: call :meth:`begin` for each read, and :meth:`feed` for each of its chunks. Lines that are
    clearly older than the newest time stamp are known. Lines close to it are compared. Clocks differ, so a
    read that does not reach back to a known line may miss some: then :attr:`has_gap` is true, nothing is
    yielded, and the whole log must be read.

    What it does not do: return lines without a time stamp. These are messages of the kubelet.
    """

    def __init__(self, position: LogPosition = LogPosition()) -> None:
        self.position = position
        self.count = 0
        """Number of lines returned so far."""
        self.has_gap = False
        """Whether this read does not reach back to a known line: stop it."""
        self._is_refusal_logged = False
        self._before_ns = _parse_stamp(position.stamp) if position.stamp else -1
        self._lines_before = position.lines_at_stamp
        self._newest_ns = self._before_ns
        self._recent: deque[tuple[int, int]] = deque()
        self._recent_counts: Counter[tuple[int, int]] = Counter()
        self._burst: deque[tuple[int, int]] = deque([(0, 0)], maxlen=2)  # (second, bytes)
        self.begin(reads_all=True)

    @property
    def is_busy(self) -> bool:
        """Whether more may follow: there was a burst of output, or the last line is incomplete."""
        second = self._newest_ns // _SECOND_NS
        size = sum(size for at, size in self._burst if at >= second - 1)
        return bool(self._rest) or size > _BURST_BYTES

    @property
    def may_have_gap(self) -> bool:
        """Whether this read has not reached a known line yet: see :attr:`has_gap`."""
        return self.has_gap or not self._reaches_back

    def since_seconds(self, now: datetime) -> int | None:
        """Return the ``since_seconds`` that covers all new lines and a few known ones."""
        if self._newest_ns < 0:
            return None
        age_seconds = (now - _to_datetime(self._newest_ns)).total_seconds()
        return math.ceil(max(0.0, age_seconds)) + _SINCE_MARGIN_SECONDS

    def begin(self, *, reads_all: bool) -> None:
        """Begin a read. Discard an incomplete line, which is read again."""
        self._rest = bytearray()
        self._cut_bytes = 0
        self._reaches_back = reads_all or self._newest_ns < 0
        self.has_gap = False
        self._known = self._recent_counts.copy()
        self._known_until_ns = max(self._before_ns, self._newest_ns - _SLACK_NS)
        self._known_before_count = self._lines_before

    def feed(self, chunk: bytes) -> Iterator[PodLine]:
        """Yield the new lines that a chunk completes."""
        start = 0
        while not self.has_gap and (end := chunk.find(b"\n", start)) >= 0:
            self._buffer(chunk[start:end])
            yield from self._complete_line()
            start = end + 1
        self._buffer(chunk[start:])

    def classify_failure(self, error: ClusterError) -> LogReadResult:
        """Return the result of a failed read; log the first refusal."""
        if not isinstance(error, ClusterRefused):
            return LogReadResult.BROKE
        if error.status in _NO_LOG:
            return LogReadResult.ABSENT
        if not self._is_refusal_logged:
            log.warning("The pod's log cannot be read now, retrying: %s", error)
        self._is_refusal_logged = True
        return LogReadResult.BROKE

    def finish(self) -> Iterator[PodLine]:
        """Yield the rest as a line: the log has ended."""
        if not self.has_gap:
            yield from self._complete_line()

    def _buffer(self, part: bytes) -> None:
        room = MAX_LINE_BYTES + 64 - len(self._rest)
        self._rest += part[: max(0, room)]
        self._cut_bytes += max(0, len(part) - max(0, room))

    def _complete_line(self) -> Iterator[PodLine]:
        stamp, _, content = bytes(self._rest).partition(b" ")
        cut_bytes = self._cut_bytes + max(0, len(content) - MAX_LINE_BYTES)
        self._rest.clear()
        self._cut_bytes = 0
        try:
            ns = _parse_stamp(stamp.decode("ascii"))
        except ValueError:
            return
        text = content[:MAX_LINE_BYTES].decode("utf-8", "replace").removesuffix("\r")
        if cut_bytes:
            text += f" [{cut_bytes} bytes truncated]"
        if self._is_new(ns, text):
            self._note(ns, text)
            yield PodLine(_to_datetime(ns), text)

    def _is_new(self, ns: int, text: str) -> bool:
        if not self._reaches_back:
            self._reaches_back = ns <= self._newest_ns
            self.has_gap = not self._reaches_back
        if self.has_gap or ns < self._known_until_ns:
            return False
        if ns == self._before_ns and self._known_before_count > 0:
            self._known_before_count -= 1
            return False
        key = (ns, hash(text))
        if self._known[key] > 0:
            self._known[key] -= 1
            return False
        return True

    def _note(self, ns: int, text: str) -> None:
        lines_at_stamp = 1
        if ns > self._newest_ns:
            self._newest_ns = ns
        elif ns == self._newest_ns:
            lines_at_stamp = self.position.lines_at_stamp + 1
        else:  # a line out of order
            lines_at_stamp = self.position.lines_at_stamp
        self.position = LogPosition(_format_stamp(self._newest_ns), lines_at_stamp)
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


LogSteps = Generator[ReadLog | Pause, LogReadResult | None, None]
"""What to do next to copy a log. Send the result of each :class:`ReadLog`."""


def snapshot_steps() -> LogSteps:
    """Yield the step that reads what the container has written so far."""
    yield ReadLog(follow=False)


def follow_steps(
    reader: LogReader,
    has_ended: Callable[[], bool],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> LogSteps:
    """Yield the steps that read a log to its end.

    When the container ends, interrupt a read with ``follow`` and send ``ENDED``: some clusters end the stream
    only seconds later. The runtime may still be copying the last output, so the log is read until nothing new
    has come for a while.

    :param has_ended: returns whether the container has ended
    """
    backoff = ExponentialBackoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
    reads_all = False
    quiet_since = failing_since = now()
    while True:
        is_over, before = has_ended(), reader.count
        since_seconds = None if reads_all else reader.since_seconds(now())
        result = yield ReadLog(follow=not is_over, since_seconds=since_seconds)
        if reader.count > before or not is_over:
            quiet_since = now()
        if reader.count > before:
            backoff.reset()
        reads_all = reader.has_gap or (is_over and result is LogReadResult.ENDED and reader.may_have_gap)
        if reads_all:
            continue
        if result is LogReadResult.ENDED or not is_over:
            failing_since = now()
        if is_over and _is_complete(reader, result, quiet=now() - quiet_since, failing=now() - failing_since):
            return
        if is_over or not has_ended():
            yield Pause(backoff.next_pause())


def _is_complete(
    reader: LogReader, result: LogReadResult | None, *, quiet: timedelta, failing: timedelta
) -> bool:
    """Return whether the log of a container that has ended was read to its end, or cannot be read."""
    if result is LogReadResult.ENDED:
        return quiet.total_seconds() >= (_QUIET_AFTER_BURST_SECONDS if reader.is_busy else _QUIET_SECONDS)
    return result is LogReadResult.ABSENT or failing.total_seconds() >= _GIVE_UP_SECONDS


@functools.lru_cache(maxsize=16)
def _second(moment: str, zone: str) -> int:
    """Return the seconds since 1970 of a time stamp without its fraction.

    :raises ValueError: the date or time is invalid
    """
    second = (datetime.fromisoformat(moment + zone.replace("Z", "+00:00")) - _EPOCH) // timedelta(seconds=1)
    if second < 0:
        raise ValueError(f"{moment} is before 1970")
    return second


def _parse_stamp(stamp: str) -> int:
    """Return a time stamp as nanoseconds since 1970. Its text may omit zeros, so it does not sort by time.

    :raises ValueError: the time stamp is invalid
    """
    parts = _STAMP.fullmatch(stamp)
    if parts is None:
        raise ValueError(f"Invalid time stamp: {stamp!r}")
    moment, fraction, zone = parts.groups()
    return _second(moment, zone) * _SECOND_NS + int((fraction or "").ljust(9, "0"))


def _to_datetime(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)


def _format_stamp(ns: int) -> str:
    second, fraction = divmod(ns, _SECOND_NS)
    return f"{_to_datetime(second * _SECOND_NS):%Y-%m-%dT%H:%M:%S}.{fraction:09}Z"
