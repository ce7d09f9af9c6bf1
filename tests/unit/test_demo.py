# SPDX-License-Identifier: Apache-2.0
"""The demo when something fails: one line for each failure, with the log to read."""

from __future__ import annotations

import io
from pathlib import Path

from dev.demo import PARTS, Demo, Part, Result
from dev.deployment import Deployment
from dev.screen import Screen
from dev.watch import Outcome

LOG = Path("/logs/attempt=1.log")


def outcome(state: str = "success", *lines: str) -> Outcome:
    return Outcome("dag.task", state, result="", seconds=1.0, tries=1, lines=lines, log=LOG)


def test_an_api_server_that_does_not_answer_is_a_line_for_each_part(tmp_path: Path) -> None:
    never_started = Deployment(tmp_path, dags=[])

    results = Demo(never_started, Screen(io.StringIO())).run(PARTS)

    errors = [error for result in results for error in result.errors()]
    assert len(errors) == len(PARTS)
    for part, error in zip(PARTS, errors, strict=True):
        assert error.startswith(f"{part.dag_id}: ")
        assert "got no answer from the API server (ConnectionError)" in error
        assert error.endswith(f"; see {tmp_path / 'dag-processor.log'}")
        assert "\n" not in error


def test_a_task_that_ends_otherwise_is_a_line_with_its_log() -> None:
    result = Result(part=Part(dag_id="dag", about=""), outcomes=[outcome(), outcome("failed")])

    assert result.errors() == [f"dag.task ended as failed, not as success; see {LOG}"]


def test_a_missing_log_line_is_a_line() -> None:
    part = Part(dag_id="dag", about="", line="the disk is full")

    assert Result(part=part, outcomes=[outcome("success", "the disk is full")]).errors() == []
    assert Result(part=part, outcomes=[outcome()]).errors() == [
        f"no task of dag has logged 'the disk is full'; see {LOG}"
    ]
