# SPDX-License-Identifier: Apache-2.0
"""``make soak``: repeats the race tests on an idle machine, then beside busy processes; or the demo."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMES = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the race tests or the demo; return 0 if all runs succeeded."""
    parser = argparse.ArgumentParser(prog="python -m dev.soak", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="run the demo instead of the tests")
    parser.add_argument("--times", type=int, default=TIMES, help=f"number of repetitions ({TIMES})")
    options, pytest_arguments = parser.parse_known_args(argv)
    if options.demo:
        return _demos(options.times)
    idle = _races(options.times, pytest_arguments)
    with _busy():
        return _races(options.times, pytest_arguments) or idle


def _races(times: int, arguments: Sequence[str]) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "race", f"--count={times}", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


@contextmanager
def _busy() -> Iterator[None]:
    """Keep all cores busy in the block."""
    burn = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(burn) for _ in range(os.cpu_count() or 1)]
    print(f"Again, beside {len(processes)} busy processes", flush=True)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _demos(times: int) -> int:
    failed = 0
    for number in range(1, times + 1):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "dev.demo"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - began
        print(f"demo {number:2} of {times}: exit code {done.returncode} after {seconds:.0f} s", flush=True)
        if done.returncode != 0:
            failed += 1
            print(done.stdout + done.stderr, flush=True)
    print(f"{times - failed} of {times} demos succeeded")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
