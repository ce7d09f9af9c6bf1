# SPDX-License-Identifier: Apache-2.0
"""API server that tests kill: a program that forks a server for each line it reads, and prints its pid.

It runs as a script, whose environment configures Airflow's home, database and ``file_stores``. It first
prints the port on which all its servers listen.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_ROOT = Path(__file__).parents[2]


class KilledServer:
    """A server that can be started and killed repeatedly."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program
        self._pid = 0
        self.port = int(self._read())

    def start(self) -> None:
        """Start a server process."""
        assert self._program.stdin is not None
        self._program.stdin.write("\n")
        self._program.stdin.flush()
        self._pid = int(self._read())

    def kill(self) -> None:
        """Kill the server with SIGKILL, whatever it is doing."""
        pid, self._pid = self._pid, 0
        os.kill(pid, signal.SIGKILL)
        assert self._read() == f"killed {pid}"

    def end(self) -> None:
        """Kill the server if it is running, and end the program."""
        if self._pid:
            self.kill()
        self._program.kill()

    def _read(self) -> str:
        assert self._program.stdout is not None
        line = self._program.stdout.readline()
        assert line, "the program has ended"
        return line.strip()


@contextmanager
def killed_server(environ: Mapping[str, str]) -> Iterator[KilledServer]:
    """Run the program, and end all of its processes afterwards."""
    with subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, **environ, "PYTHONPATH": str(_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        try:
            server = KilledServer(program)
        except BaseException:
            program.kill()
            raise
        try:
            yield server
        finally:
            server.end()


def _main() -> None:
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # Airflow's output must not mix with ours
        _serve(out)


def _serve(out: TextIO) -> None:
    import uvicorn

    from tests.integration.servers import airflow_like

    app = airflow_like()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], file=out, flush=True)
        for _ in sys.stdin:
            pid = os.fork()
            if pid == 0:
                config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none")
                uvicorn.Server(config).run(sockets=[listener])
                os._exit(0)
            print(pid, file=out, flush=True)
            os.waitpid(pid, 0)
            print(f"killed {pid}", file=out, flush=True)


if __name__ == "__main__":
    _main()
