# SPDX-License-Identifier: Apache-2.0
"""API server in a process of its own: our app mounted as in Airflow, and nothing else.

Run as a script, it prints its hook once it writes reports in batches. For each line on stdin, it prints the
number of reports written in batches. It ends with its stdin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ReportServer:
    """A running server."""

    hook: str
    process: subprocess.Popen[str]

    def count_written(self) -> int:
        """Return how many reports it has written in batches."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        count = json.loads(self.process.stdout.readline())
        assert isinstance(count, int)
        return count


@contextmanager
def report_servers(count: int, database_url: str, **environ: str) -> Iterator[list[ReportServer]]:
    """Run servers on a PostgreSQL database."""
    variables = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url, "PYTHONPATH": str(_ROOT), **environ}
    with ExitStack() as stack:
        started = [stack.enter_context(_started({**os.environ, **variables})) for _ in range(count)]
        yield [_ready(process) for process in started]


@contextmanager
def _started(environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, __file__],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _ready(process: subprocess.Popen[str]) -> ReportServer:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the server has not started"
    return ReportServer(json.loads(line), process)


def _main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Airflow logs to stdout

    from airflow_asyncaction import settings
    from tests.integration.servers import Uncompleted, served_mounted

    app = Uncompleted()
    with served_mounted(app) as url:
        hook = url + settings.load().url
        batches = app.wait_for_batches(hook)
        print(json.dumps(hook), file=out, flush=True)
        for _ in sys.stdin:
            print(batches.written, file=out, flush=True)


if __name__ == "__main__":
    _main()
