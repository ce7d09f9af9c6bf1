# SPDX-License-Identifier: Apache-2.0
"""Live processes: tools for tests that start and kill real processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from airflow_asyncaction.protocol.actions import Completion
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.base import drop_airflow_variables
from airflow_asyncaction.runners.guard_process import GUARD
from airflow_asyncaction.runners.local import LocalRunner

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-that-no-command-line-shows"
INFO = JobInfo(
    job_id=JobId("0b5ad2a5-7b4f-4c36-8a7e-5d0e4c4b6d1f"),
    secret_key=SECRET,
    hook_url="http://localhost:1/async",
)
STUBBORN = "trap '' TERM; while :; do sleep 0.05; done"

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def eventually(look: Callable[[], T], seconds: float = 60.0) -> T:
    """Poll ``look`` until its result is true, and return the result."""
    give_up_at = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < give_up_at, "the condition was not met in time"
        time.sleep(0.02)
    return found


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def all_gone(pids: Iterable[int]) -> bool:
    return not any(map(is_alive, pids))


def read_pid(path: Path) -> int:
    """Wait for a file, and return the pid in it."""

    def look() -> int:
        with suppress(OSError, ValueError):
            return int(path.read_text(encoding="utf-8"))
        return 0

    return eventually(look)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def kill_all(pids: Iterable[int]) -> None:
    """Clean up after a test that failed."""
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def kill_with_descendants(pid: int, *, but: int = -1) -> None:
    """Kill a process and its descendants, except for ``but`` and its descendants: a guard ends its job."""
    children = [child for child in all_pids() if child != but and is_child(child, pid)]
    with suppress(ProcessLookupError):  # it has ended since its parent was killed
        os.kill(pid, signal.SIGKILL)
    for child in children:
        kill_with_descendants(child, but=but)


def is_child(child: int, pid: int) -> bool:
    try:
        return parent_of(child) == pid
    except OSError:
        return False


def guards_of(parent: int) -> list[int]:
    """Return the guards among the children of a process."""
    guards = []
    for pid in all_pids():
        try:
            is_guard = str(GUARD).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            if is_guard and parent_of(pid) == parent and is_alive(pid):
                guards.append(pid)
        except OSError:
            continue
    return guards


class Run:
    """A run of a runner, and its results."""

    def __init__(
        self,
        command: Sequence[str] | str,
        *,
        environ: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stop_grace: float = 30,
        completion: Completion = Completion.EXIT,
        write_line: Callable[[str, str], None] | None = None,
    ) -> None:
        self.lines: list[tuple[str, str]] = []
        self.launched: list[Mapping[str, Any]] = []
        self.runner = LocalRunner(
            command=command,
            environ=drop_airflow_variables(os.environ) if environ is None else environ,
            cwd=cwd,
            stop_grace=timedelta(seconds=stop_grace),
            write_line=write_line or self.write_line,
            completion=completion,
        )

    def write_line(self, stream: str, line: str) -> None:
        self.lines.append((stream, line))

    def run(self) -> Exit:
        return self.runner.run(INFO, self.launched.append)

    @property
    def stdout(self) -> list[str]:
        return [line for stream, line in self.lines if stream == "stdout"]
