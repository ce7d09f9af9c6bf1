# SPDX-License-Identifier: Apache-2.0
"""No hop refuses what the hop before it has taken: output, results and names of any size and any letters."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.protocol.actions import Completion, State
from airflow_asyncaction.protocol.lifecycle import Exit, Launched
from airflow_asyncaction.protocol.reports import MAX_MESSAGE_CHARS
from airflow_asyncaction.protocol.tasks import TaskView, Word
from airflow_asyncaction.runners.local import LocalRunner
from tests.integration.signed_jobs import SignedJob

pytestmark = pytest.mark.integration

NO_PATIENCE = timedelta(0)
LONG_OUTPUT = {
    "a line of 1 MB": "print('x' * 1_050_000)",
    "a line of two-byte letters": "print('\\u00e9' * 175_000)",
    "20 lines of letters that JSON escapes twice": "for _ in range(20): print('\\U0001f600' * 60_000)",
    "20 lines of control characters": "for _ in range(20): print('\\0\\x1b' * 30_000)",
    "no UTF-8": "import os; os.write(1, b'\\xff' * 1_000_000)",
}


def told(job: SignedJob, word: Word) -> TaskView:
    """Say a runner's word as a worker does, once."""
    return TaskHook(job.info.hook).tell(job.task, word, patience=NO_PATIENCE)


def ran(job: SignedJob, *command: str, cwd: str | None = None) -> Exit:
    runner = LocalRunner(
        command=command,
        environ={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "utf-8"},
        cwd=cwd,
        stop_grace=timedelta(seconds=1),
        write_line=lambda _stream, _line: None,
        completion=Completion.EXIT,
    )
    return runner.run(job.info, lambda _: None)


@pytest.mark.parametrize("program", LONG_OUTPUT.values(), ids=LONG_OUTPUT)
def test_output_of_any_length_fails_no_good_job(job: SignedJob, program: str) -> None:
    view = told(job, ran(job, sys.executable, "-c", program))
    assert (view.state, view.error_message) == (State.SUCCESS, None)


def test_a_failed_job_is_explained_by_the_end_of_its_output(job: SignedJob) -> None:
    program = "import sys; print('x' * 1_050_000); print('what went wrong'); sys.exit(3)"
    view = told(job, ran(job, sys.executable, "-c", program))
    assert (view.state, view.error_name) == (State.ERROR, "ExitCode")
    message = view.error_message or ""
    assert message.startswith("The job exited with code 3\nxxx")
    assert message.endswith("xxx\nwhat went wrong")
    assert MAX_MESSAGE_CHARS // 2 < len(message) < MAX_MESSAGE_CHARS


def test_a_message_of_any_length_is_told(job: SignedJob) -> None:
    view = told(job, Exit(code=1, reason="R" * 10**6, message="\u20ac" * 10**6, tail=["\u20ac" * 10**6] * 20))
    assert view.error_name == "R" * 250
    assert len(view.error_message or "") <= MAX_MESSAGE_CHARS + 1


def test_names_that_are_no_utf_8_are_told(job: SignedJob, tmp_path: Path) -> None:
    odd = os.fsdecode(b"gone-\xff")
    assert told(job, Launched({"host": odd})).job == '{"host":"gone-?"}'
    view = told(job, ran(job, str(tmp_path / odd)))
    assert (view.state, view.error_name) == (State.ERROR, "CommandNotFound")
    assert "gone-?: No such file or directory" in (view.error_message or "")
