# SPDX-License-Identifier: Apache-2.0
"""Child processes that are cleaned up with all their descendants."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

PORTS = range(10_000, 30_000)
"""Ports for servers, below those that Linux assigns to outgoing connections."""


def free_ports(count: int) -> list[int]:
    """Return distinct unused TCP ports on 127.0.0.1."""
    ports: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            listener = stack.enter_context(socket.socket())
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise OSError(f"fewer than {count} free ports from {PORTS.start} to {PORTS.stop - 1}")


class Process:
    """A restartable command whose output goes to one file.

    It runs in a session of its own: Ctrl-C in the terminal only reaches its parent, which has to stop it.
    """

    def __init__(self, name: str, command: Sequence[str], *, environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.command = list(command)
        self.environ = dict(environ)
        self.log = log
        self.started_at: datetime | None = None
        self.sessions: set[int] = set()
        self._popen: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Process {self.name} pid={self.pid} running={self.is_running}>"

    @property
    def pid(self) -> int | None:
        """The process id, ``None`` before the first start."""
        return self._popen.pid if self._popen else None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start the process and append its output to the log file."""
        if self.is_running:
            raise RuntimeError(f"{self.name} is running already")
        self.started_at = datetime.now(tz=UTC)
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.command,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.sessions.add(self._popen.pid)

    def kill(self) -> None:
        """Kill and reap the process with SIGKILL, as the out-of-memory killer would.

        Its child processes keep running, as they would in production.
        """
        self._send(signal.SIGKILL)
        self.wait(10)

    def terminate(self) -> None:
        """Send SIGTERM and return immediately."""
        self._send(signal.SIGTERM)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until the process has ended; return whether it has."""
        if self._popen is None:
            return True
        try:
            self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of its output."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _send(self, number: signal.Signals) -> None:
        if self._popen is not None:
            self._popen.send_signal(number)


def stop(processes: Iterable[Process], *, grace_seconds: float) -> None:
    """Stop processes together: SIGTERM, then SIGKILL after the grace period."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace_seconds
    for process in processes:
        if not process.wait(max(0.0, deadline - time.monotonic())):
            process.kill()


def kill_leftovers(sessions: AbstractSet[int], variable: str, value: str) -> list[int]:
    """Kill every process of these sessions or with ``variable=value`` in its environment.

    Neither criterion alone finds all: Airflow's workers overwrite their environment when they set their
    title, and jobs lead sessions of their own. Linux only (``/proc``).

    :returns: the ids of the killed processes
    """
    mark = f"{variable}={value}".encode()
    killed: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if _session(entry) in sessions or mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(int(entry.name))
        except OSError:  # it has ended, or belongs to another user
            continue
    return killed


def _session(entry: Path) -> int | None:
    """Return the session of a process that is still alive."""
    state, _parent, _group, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
    return None if state == "Z" else int(session)
