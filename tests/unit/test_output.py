# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction.runners.output import PIECE_CHARS, UPDATE_SECONDS, OutputPipe, OutputSplitter

NOISE = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"a", b"line", "é€\U0001f600".encode(), b"\xff", b"\xe2\x82", b"\0"]
    )
    | st.binary(max_size=4)
).map(b"".join)


def lines_of(*chunks: bytes) -> list[str]:
    splitter = OutputSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk, 0.0)]
    return [*lines, *splitter.flush()]


@given(NOISE, st.data())
def test_chunking_changes_nothing(output: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)))))
    chunks = [output[start:end] for start, end in pairwise([0, *cuts, len(output)])]
    assert lines_of(*chunks) == lines_of(output)
    assert lines_of(*(output[i : i + 1] for i in range(len(output)))) == lines_of(output)


@given(st.binary().filter(lambda output: b"\r" not in output))
def test_without_carriage_returns_nothing_changes(output: bytes) -> None:
    text = output.decode("utf-8", "replace")
    assert lines_of(output) == text.removesuffix("\n").split("\n") if text else lines_of(output) == []


@given(NOISE)
def test_what_ends_in_a_newline_is_never_lost(output: bytes) -> None:
    expected = [
        line.rstrip("\r").rpartition("\r")[2] for line in output.decode("utf-8", "replace").split("\n")[:-1]
    ]
    remaining = iter(lines_of(output))
    assert all(line in remaining for line in expected)


@pytest.mark.parametrize("cut", range(11))
def test_utf8_may_be_cut_anywhere(cut: int) -> None:
    output = "é€\U0001f600\n".encode()
    assert lines_of(output[:cut], output[cut:]) == ["é€\U0001f600"]


def test_what_is_not_utf8_is_replaced() -> None:
    assert lines_of(b"a\xffb\n\xe2\x82") == ["a\ufffdb", "\ufffd"]


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (b"a\r\nb\r\r\nc", ["a", "b", "c"]),
        (b"\n\n", ["", ""]),
        (b"no newline", ["no newline"]),
        (b"", []),
        (b"done\r", ["done"]),
        (b"\r\r\r", []),
    ],
)
def test_line_ends(output: bytes, lines: list[str]) -> None:
    assert lines_of(output) == lines


def test_a_progress_bar_is_shown_once_a_second_and_at_its_end() -> None:
    splitter = OutputSplitter()
    lines: list[str] = []
    for step in range(1001):  # for 10 s, then its end
        lines += splitter.feed(f"\r{step / 10:g}%".encode(), now=step / 100)
    lines += splitter.feed(b"\nnext\n", now=10.01)
    assert lines[-2:] == ["100%", "next"]
    assert 9 <= len(lines[:-2]) <= 10 / UPDATE_SECONDS + 1


def test_a_bar_that_leaps_in_one_read_shows_its_start_and_its_end() -> None:
    bar = b"".join(b"%d%%\r" % percent for percent in range(100_000))
    assert lines_of(bar + b"100%\n") == ["0%", "100%"]


@pytest.mark.parametrize("length", [PIECE_CHARS - 1, PIECE_CHARS, PIECE_CHARS + 1, 3 * PIECE_CHARS])
@pytest.mark.parametrize("step", [1000, 64 * 1024, 1024 * 1024])
def test_a_long_line_comes_in_pieces(length: int, step: int) -> None:
    output = b"x" * length + b"\nend\n"
    *pieces, end = lines_of(*(output[start : start + step] for start in range(0, len(output), step)))
    assert "".join(pieces) == "x" * length
    assert all(len(piece) == PIECE_CHARS for piece in pieces[:-1])
    assert 0 < len(pieces[-1]) <= PIECE_CHARS
    assert end == "end"


@pytest.mark.parametrize("start", range(PIECE_CHARS - 8, PIECE_CHARS + 2))
@pytest.mark.parametrize("step", [7, 1000, 1024 * 1024])
def test_no_secret_is_cut_in_two(start: int, step: int) -> None:
    splitter = OutputSplitter(lambda line: line.replace("secret", "***"))
    output = b"x" * start + b"secret" + b"y" * PIECE_CHARS
    # The beginning in one go: the line of it that is kept is masked with each further byte.
    chunks = [output[: start - 20], *(output[at : at + step] for at in range(start - 20, len(output), step))]
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk, 0.0)] + splitter.flush()
    assert "".join(pieces) == "x" * start + "***" + "y" * PIECE_CHARS


def test_a_pipe_is_read_without_waiting_to_its_end() -> None:
    read_fd, write_fd = os.pipe()
    try:
        pipe = OutputPipe("stdout", read_fd)
        assert not pipe.receive()
        os.write(write_fd, b"one\ntw")
        assert pipe.receive()
        pipe.split()
        assert list(pipe.lines) == ["one"]
    finally:
        os.close(write_fd)
    assert pipe.receive()
    assert pipe.at_end
    assert not pipe.wants_reading
    pipe.split()
    pipe.flush()
    assert list(pipe.lines) == ["one", "tw"]
    os.close(read_fd)


def test_a_reader_in_the_middle_of_another_keeps_all_bytes_in_order() -> None:
    """As a signal handler does that interrupts the cutting of lines."""
    read_fd, write_fd = os.pipe()

    def interrupting_clock() -> float:
        if not interrupted:
            interrupted.append(True)
            os.write(write_fd, b"e\ntwo\n")
            pipe.receive()
            pipe.split()
        return 0.0

    interrupted: list[bool] = []
    pipe = OutputPipe("stdout", read_fd, interrupting_clock)
    os.write(write_fd, b"on")
    pipe.receive()
    pipe.split()
    assert list(pipe.lines) == ["one", "two"]
    os.close(read_fd)
    os.close(write_fd)
