# SPDX-License-Identifier: Apache-2.0
"""Job client as a single file: it runs, can be imported, and builds reproducibly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.testing import JobServer, TestedJob
from dev.zipapp import PACKAGE, PARTS, build_zipapp
from tests.requirements import need

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("JOB_", "PYTHON"))}


def execute(tested: TestedJob, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**CLEAN, **tested.environ, **more},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_wraps_a_program_with_a_bare_python(tested: TestedJob, zipapp: Path) -> None:
    done = execute(tested, [sys.executable, "-I", "-S", str(zipapp), "run", "--", "echo", "hi"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")
    assert tested.action.state is State.SUCCESS
    assert [line.message for line in tested.logs] == ["hi"]


def test_it_is_executable(tested: TestedJob, zipapp: Path) -> None:
    assert zipapp.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert os.access(zipapp, os.X_OK)
    path = f"{Path(sys.executable).parent}:{CLEAN['PATH']}"
    done = execute(tested, [str(zipapp), "run", "--", "false"], PATH=path)
    assert done.returncode == 1
    assert tested.action.state is State.ERROR


def test_it_can_be_imported(tested: TestedJob, zipapp: Path) -> None:
    code = "from airflow_asyncaction.job import *\nwith open_job() as job: job.result(__name__)"
    done = execute(tested, [sys.executable, "-S", "-c", code], PYTHONPATH=str(zipapp))
    assert (done.returncode, done.stderr) == (0, "")
    assert tested.action.results == '"__main__"'


def test_usage_is_told_and_reported(server: JobServer, zipapp: Path) -> None:
    tested = server.new_job()
    done = execute(tested, [sys.executable, "-I", "-S", str(zipapp)])
    assert done.returncode == 125
    assert done.stderr.startswith("usage: ")


def test_it_is_reproducible(tmp_path: Path, zipapp: Path) -> None:
    again = build_zipapp(tmp_path / "deeper" / "again.pyz")
    assert again.read_bytes() == zipapp.read_bytes()


def test_make_builds_it_again_after_a_change_of_what_is_in_it() -> None:
    need("make")
    root = PACKAGE.parent
    command = ["make", "--print-data-base", "--question", "dist/asyncaction.pyz"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    (rule,) = (line for line in done.stdout.splitlines() if line.startswith("dist/asyncaction.pyz: "))
    packed = {path.relative_to(root).as_posix() for part in PARTS for path in PACKAGE.glob(part)}
    assert {"dev/zipapp.py", *packed} <= set(rule.split())
