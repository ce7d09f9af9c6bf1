# SPDX-License-Identifier: Apache-2.0
"""Benchmarks continue after a failed run and report it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.repeating import MOST_FAILURES, Repeater, RunFailed, run_parts


def test_a_run_that_fails_is_counted_and_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    results: Iterator[float | str] = iter(["no node", "no image", 3.5])

    def run() -> float:
        result = next(results)
        if isinstance(result, str):
            raise RunFailed(result)
        return result

    repeater = Repeater()
    assert repeater.measure("theirs", run) == 3.5
    assert repeater.measure("ours", lambda: 1.0) == 1.0
    repeater.print_failures()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"theirs: a run failed, and is repeated: {why}" for why in ("no node", "no image")]
    assert lines[2].split()[:4] == ["theirs", "2", "runs", "failed"]
    assert len(lines) == 3


def test_runs_that_always_fail_end_their_part_alone(capsys: pytest.CaptureFixture[str]) -> None:
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        raise RunFailed("always")

    measured: list[str] = []
    parts = {
        "times": lambda: Repeater().measure("theirs", run),
        "requests": lambda: measured.append("requests"),
    }
    assert not run_parts(parts)
    assert len(runs) == MOST_FAILURES
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "Not measured, for the reasons above: times"
    assert measured == ["requests"]
    assert "always" in said.err
    assert run_parts({"requests": lambda: None})
