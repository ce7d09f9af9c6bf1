# SPDX-License-Identifier: Apache-2.0
"""Output of a wrapped program, split into lines."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction.job.outgoing_reports import LINE_BYTES, clean_text
from airflow_asyncaction.job.program_output import OutputLineSplitter, Pump


def lines_of(*chunks: bytes) -> list[str]:
    lines: list[str] = []
    splitter = OutputLineSplitter(lines.append)
    for chunk in chunks:
        splitter.feed(chunk)
    splitter.close()
    return lines


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\r\r\n", ["a"]),
        (b"10%\r20%\r100%\n", ["100%"]),
        (b"10%\r100%\r", ["100%"]),
        (b"\r10%\r100%", ["100%"]),
        ("ü😀\n".encode(), ["ü😀"]),
        (b"\xff\xfe\n", ["\ufffd\ufffd"]),
        (b"a\0b\n", ["a\0b"]),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 100])
def test_lines(output: bytes, lines: list[str], chunk_bytes: int) -> None:
    assert lines_of(*(output[at : at + chunk_bytes] for at in range(0, len(output), chunk_bytes))) == lines


@given(st.binary().map(lambda data: data.replace(b"x", b"\n").replace(b"y", b"\r")), st.data())
def test_where_it_is_cut_makes_no_difference(output: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=5)))
    chunks = [output[start:end] for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True)]
    assert lines_of(*chunks) == lines_of(output)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1)))
def test_text_comes_out_as_it_went_in(lines: list[str]) -> None:
    assert lines_of("\n".join(lines).encode()) == lines


@pytest.mark.parametrize("character", ["x", "ü", "€", "😀"])
def test_a_long_line_is_cut_between_characters_and_marked_once(character: str) -> None:
    output = character.encode() * 20_000
    (line,) = lines_of(output[:LINE_BYTES], output[LINE_BYTES:])
    kept, _, mark = line.partition(" ")
    assert set(kept) == {character}
    assert LINE_BYTES - 3 <= len(kept.encode()) <= LINE_BYTES
    assert mark == f"[cut: the line has {len(output)} bytes]"


def test_a_progress_bar_longer_than_a_line_is_not_cut() -> None:
    assert lines_of(*[b"\r%d%%" % (number % 100) for number in range(10_001)], b"\n") == ["0%"]


def test_tidy_leaves_good_text_alone() -> None:
    assert clean_text("ü😀 \0") == "ü😀 \0"


def test_a_pump_copies_until_its_reader_closes() -> None:
    lines: list[str] = []
    (source, feed), (sink, target) = os.pipe(), os.pipe()
    pump = Pump(source, target, lines.append)
    pump.start()
    os.write(feed, b"one\ntw")
    assert os.read(sink, 100) == b"one\ntw"
    os.close(sink)
    os.write(feed, b"o\n")
    pump.join(60)
    assert not pump.is_alive()
    with pytest.raises(BrokenPipeError):
        os.write(feed, b"x")
    os.close(feed)
    os.close(target)


def test_a_pump_waits_for_a_reader_of_a_non_blocking_descriptor() -> None:
    (source, feed), (sink, target) = os.pipe(), os.pipe()
    os.set_blocking(target, False)
    pump = Pump(source, target, lambda _line: None)
    pump.start()
    output = os.urandom(1_000_000)

    def feed_all() -> None:
        with os.fdopen(feed, "wb") as stream:
            stream.write(output)

    threading.Thread(target=feed_all).start()
    received = bytearray()
    while len(received) < len(output):
        received += os.read(sink, 65536)
    pump.join(60)
    assert bytes(received) == output
    os.close(sink)
    os.close(target)


def test_a_pump_waits_for_a_slow_reader_but_not_for_a_quiet_source() -> None:
    (source, feed), (sink, target) = os.pipe(), os.pipe()
    os.set_blocking(feed, False)
    pump = Pump(source, target, lambda _line: None)
    pump.start()
    pump.finish(time.monotonic(), 0.05)  # quiet, with the feed open
    assert pump.is_alive()
    written = 0
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            written += os.write(feed, bytes(10_000))
        time.sleep(0.001)
    finishing = threading.Thread(target=pump.finish, args=(time.monotonic() - 60, 0.05))
    finishing.start()
    finishing.join(0.5)
    assert finishing.is_alive()
    received = 0
    while received < written:
        received += len(os.read(sink, 65536))
    finishing.join(60)
    assert not finishing.is_alive()
    os.close(feed)
    pump.join(60)
    os.close(sink)
    os.close(target)
