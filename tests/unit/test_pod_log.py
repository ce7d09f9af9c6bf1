# SPDX-License-Identifier: Apache-2.0
"""Pod log: each line is read exactly once, whatever fails."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction.runners.pods.log import (
    MAX_LINE_BYTES,
    LogPosition,
    LogReader,
    LogReadResult,
    Pause,
    PodLine,
    ReadLog,
    follow_steps,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def _stamp(ns: int) -> str:
    moment = START + timedelta(seconds=ns // 10**9)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09}Z"


def _fed(reader: LogReader, content: bytes, *, reads_all: bool = False, piece: int = 7) -> list[str]:
    reader.begin(reads_all=reads_all)
    pieces = (content[at : at + piece] for at in range(0, len(content), piece))
    return [line.text for each in pieces for line in reader.feed(each)]


def _log(*lines: tuple[int, str]) -> bytes:
    return "".join(f"{_stamp(ns)} {text}\n" for ns, text in lines).encode()


# Few stamps, close to each other, and few texts: so that many are the same.
LINES = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["a", "b", "", "é x"])), max_size=30).map(
    sorted
)


@given(LINES, st.lists(st.integers(0, 2000), max_size=6), st.integers(1, 50))
def test_a_log_that_breaks_anywhere_and_is_read_again_gives_each_line_once(
    lines: list[tuple[int, str]], breaks: list[int], piece: int
) -> None:
    content, reader = _log(*lines), LogReader()
    seen = [
        text for cut in sorted(breaks) for text in _fed(reader, content[:cut], reads_all=True, piece=piece)
    ]
    seen += _fed(reader, content, reads_all=True, piece=piece)
    assert seen == [text for _, text in lines]


@given(LINES, st.integers(0, 2000))
def test_another_process_continues_at_the_position(lines: list[tuple[int, str]], cut: int) -> None:
    content, first = _log(*lines), LogReader()
    seen = _fed(first, content[:cut])
    second = LogReader(LogPosition.from_json(first.position.to_json()))
    seen += _fed(second, content)
    assert seen + _fed(second, content) == [text for _, text in lines]


@given(st.binary(max_size=300), st.integers(1, 40))
def test_no_bytes_break_the_reader(content: bytes, piece: int) -> None:
    reader = LogReader()
    _fed(reader, content, piece=piece)
    for line in reader.finish():
        assert isinstance(line, PodLine)
    assert _fed(reader, _log((10**9, "after"))) == ["after"]


def test_stderr_that_is_written_late_is_not_lost_and_not_doubled() -> None:
    reader = LogReader()
    out, late, end = (5_000_000, "out"), (4_000_000, "err"), (6_000_000, "end")
    assert _fed(reader, _log(out)) == ["out"]
    assert _fed(reader, _log(out, late)) == ["err"]
    assert _fed(reader, _log(out, late, end)) == ["end"]
    assert _fed(reader, _log(out, late, end)) == []


def test_stamps_are_compared_as_moments() -> None:
    reader = LogReader()
    text = b"2026-01-01T02:00:00.12+02:00 a\n2026-01-01T00:00:00.1200000001Z no stamp\n"
    assert _fed(reader, text + b"2026-01-01T00:00:00.123Z b\n") == ["a", "b"]
    assert reader.position == LogPosition("2026-01-01T00:00:00.123000000Z", 1)
    assert _fed(reader, b"2026-01-01T00:00:00.12Z a\n") == []


def test_the_time_of_a_line_is_the_containers() -> None:
    (line,) = LogReader().feed(_log((1_234_567_891, "x")))
    assert line.time == START + timedelta(microseconds=1_234_567)


def test_the_kubelets_own_words_are_no_lines() -> None:
    assert _fed(LogReader(), b"unable to retrieve container logs for x\n" + _log((1, "a"))) == ["a"]


def test_a_rest_is_a_line_only_at_the_end() -> None:
    reader = LogReader()
    assert _fed(reader, _log((1, "a")) + f"{_stamp(2)} b".encode()) == ["a"]
    assert reader.is_busy
    assert [line.text for line in reader.finish()] == ["b"]


def test_a_long_line_is_cut_and_says_so() -> None:
    content = _log((1, "é" * MAX_LINE_BYTES), (2, "next"))
    long, following = _fed(LogReader(), content, piece=1000)
    assert long == "é" * (MAX_LINE_BYTES // 2) + f" [{MAX_LINE_BYTES} bytes truncated]"
    assert following == "next"


def test_a_read_that_does_not_reach_back_has_a_gap_and_gives_nothing() -> None:
    reader = LogReader()
    _fed(reader, _log((1, "a")))
    assert _fed(reader, _log((3, "c"))) == []
    assert reader.has_gap
    assert _fed(reader, _log((1, "a"), (2, "b"), (3, "c")), reads_all=True) == ["b", "c"]


class _Clock:
    def __init__(self) -> None:
        self.now = START + timedelta(seconds=2)

    def __call__(self) -> datetime:
        return self.now


class _Container:
    """A log that grows while it is read; each read takes the next outcome."""

    def __init__(self, *reads: bytes | LogReadResult, ends_before: int) -> None:
        self._reads: Iterator[bytes | LogReadResult] = iter(reads)
        self._ends_before = ends_before
        self.clock = _Clock()
        self.read: list[ReadLog] = []
        self.paused_seconds = 0.0
        self.texts: list[str] = []

    def follow(self, reader: LogReader) -> None:
        steps = follow_steps(reader, lambda: len(self.read) >= self._ends_before, self.clock)
        outcome: LogReadResult | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration:
                return
            outcome = None
            if isinstance(step, Pause):
                self.paused_seconds += step.seconds
                self.clock.now += timedelta(seconds=step.seconds)
            else:
                outcome = self._outcome(reader, step)

    def _outcome(self, reader: LogReader, step: ReadLog) -> LogReadResult:
        self.read.append(step)
        result = next(self._reads)
        if isinstance(result, LogReadResult):
            return result
        self.texts += _fed(reader, result, reads_all=step.since_seconds is None, piece=1000)
        return LogReadResult.ENDED


def test_a_log_is_followed_and_read_once_more_at_the_end() -> None:
    first, all_ = _log((10**9, "a")), _log((10**9, "a"), (10**9 + 1, "b"))
    container = _Container(first, all_, all_, ends_before=1)
    container.follow(LogReader())
    assert container.texts == ["a", "b"]
    assert container.read == [ReadLog(True, None), ReadLog(False, 3), ReadLog(False, 4)]
    assert container.paused_seconds == 0.25


def test_after_a_burst_the_log_is_read_until_it_was_quiet_for_long() -> None:
    burst = _log(*((n, "x" * 1000) for n in range(60)))
    late = burst + _log((100, "the last"))
    container = _Container(burst, burst, burst, late, late, late, late, late, ends_before=0)
    container.follow(LogReader())
    assert len(container.texts) == 61
    assert container.paused_seconds > 2


def test_a_container_that_is_not_started_is_waited_for() -> None:
    container = _Container(
        LogReadResult.ABSENT,
        LogReadResult.BROKE,
        _log((10**9, "a")),
        _log((10**9, "a")),
        _log((10**9, "a")),
        ends_before=3,
    )
    container.follow(LogReader())
    assert container.texts == ["a"]


def test_a_deleted_log_ends_immediately() -> None:
    container = _Container(LogReadResult.ABSENT, ends_before=0)
    container.follow(LogReader())
    assert container.paused_seconds == 0


def test_an_unreachable_kubelet_is_given_up_eventually() -> None:
    container = _Container(*[LogReadResult.BROKE] * 50, ends_before=0)
    container.follow(LogReader())
    assert 30 <= container.paused_seconds < 60


def test_where_clocks_differ_all_is_read() -> None:
    reader = LogReader(LogPosition(_stamp(10**9), 1))
    all_ = _log((10**9, "a"), (2 * 10**9, "b"), (3 * 10**9, "c"))
    container = _Container(_log((3 * 10**9, "c")), all_, all_, all_, ends_before=0)
    container.follow(reader)
    assert container.texts == ["b", "c"]
    assert [step.since_seconds is None for step in container.read][:2] == [False, True]
