# SPDX-License-Identifier: Apache-2.0
"""Looks at real processes, for tests that start and kill them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def eventually(look: Callable[[], T], seconds: float = 30.0) -> T:
    """Return what ``look`` returns once that is true."""
    give_up_at = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < give_up_at, "it did not become true"
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
    """Return the pid in a file once it is there."""

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
