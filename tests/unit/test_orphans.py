# SPDX-License-Identifier: Apache-2.0
"""Jobs of killed task processes: all their processes end, after the grace period."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.live_processes import (
    ROOT,
    STUBBORN,
    all_gone,
    eventually,
    guards_of,
    is_alive,
    needs_proc,
    read_pid,
)

pytestmark = needs_proc

TASK = """
    import os, signal, sys
    from tests.unit.live_processes import Run
    os.setpgid(0, 0)
    run = Run(sys.argv[1], stop_grace=float(sys.argv[2]))
    run.run()
"""


@pytest.fixture
def task() -> Iterator[Callable[[str, float], subprocess.Popen[bytes]]]:
    """Start a task process, as Airflow's supervisor does: one that leads a process group."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: str, stop_grace: float) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TASK), command, str(stop_grace)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_kill_9_of_the_task_leaves_nothing(
    tmp_path: Path, task: Callable[[str, float], subprocess.Popen[bytes]]
) -> None:
    """This includes the guard and a grandchild outside the process group, even if they ignore SIGTERM."""
    process = task(
        f'setsid sh -c "echo \\$\\$ > {tmp_path}/escaped; {STUBBORN}" & '
        f'sh -c "echo \\$\\$ > {tmp_path}/child; {STUBBORN}" & '
        f"echo $$ > {tmp_path}/job; {STUBBORN}",
        1,
    )
    pids = [read_pid(tmp_path / name) for name in ("job", "child", "escaped")]
    guards = guards_of(process.pid)
    assert len(guards) == 1
    killed_at = time.monotonic()
    process.kill()
    process.wait()
    eventually(lambda: all_gone([*pids, *guards]))
    assert time.monotonic() - killed_at >= 1


def test_a_job_gets_its_grace_period_after_its_task_has_died(
    tmp_path: Path, task: Callable[[str, float], subprocess.Popen[bytes]]
) -> None:
    """SIGTERM and SIGKILL to the task's group, as the supervisor sends them, reach neither guard nor job."""
    process = task(
        f"trap 'sleep 1; echo saved > {tmp_path}/saved; exit' TERM; echo $$ > {tmp_path}/job; "
        "while :; do sleep 0.05; done",
        30,
    )
    job = read_pid(tmp_path / "job")
    guards = guards_of(process.pid)
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    eventually(lambda: all_gone([job, *guards]))
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_kill_9_of_the_task_ends_what_was_submitted(tmp_path: Path) -> None:
    script = f"""
        import time
        from airflow_asyncaction.protocol.actions import Completion
        from tests.unit.live_processes import Run
        Run("setsid sleep 1000 & echo $! > {tmp_path}/pid", completion=Completion.REPORT).run()
        time.sleep(1000)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    pid = read_pid(tmp_path / "pid")
    assert is_alive(pid)
    process.kill()
    process.wait()
    eventually(lambda: not is_alive(pid))
