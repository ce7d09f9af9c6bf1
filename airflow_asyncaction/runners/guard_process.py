# SPDX-License-Identifier: Apache-2.0
"""Guard process, as seen by the task process: starts the guard, and exchanges messages with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from airflow_asyncaction.runners.output import OutputPipe

GUARD = Path(__file__).with_name("guard.py")

_STOP = b"s"
_RELEASE = b"r"
_END_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class GuardStatus:
    """Status that the guard has reported so far; see ``guard.py``.

    :param failure: stage and errno, if the job could not be started
    :param left: how many processes outlived the main process, once the guard is done
    """

    failure: tuple[str, int] | None = None
    pid: int | None = None
    code: int | None = None
    signum: int | None = None
    left: int | None = None

    @property
    def has_exited(self) -> bool:
        """Whether the main process has ended."""
        return self.code is not None or self.signum is not None

    @property
    def is_final(self) -> bool:
        """Whether no process is left to end."""
        return self.failure is not None or self.left is not None


def parse_status(text: bytes) -> GuardStatus:
    """Parse the guard's lines; ignore a last line that is incomplete."""
    facts = {line.split()[0]: line.split()[1:] for line in text.decode("ascii").split("\n")[:-1]}

    def number(event: str) -> int | None:
        return int(facts[event][0]) if event in facts else None

    failed = facts.get("failed")
    return GuardStatus(
        failure=None if failed is None else (failed[0], int(failed[1])),
        pid=number("started"),
        code=number("exited"),
        signum=number("killed"),
        left=number("done"),
    )


def encode_order(
    *, command: Sequence[str], environ: Mapping[str, str], cwd: str | None, grace_seconds: float, keep: bool
) -> bytes:
    """Return the order for the guard; see ``guard.Order``.

    :raises ValueError: a part of it cannot be passed to a process
    """
    if not command:
        raise ValueError("the command is an empty list")
    if any("=" in name or not name for name in environ):
        raise ValueError("a name in the environment is empty or contains '='")
    fields = [
        *(str(grace_seconds), "keep" if keep else "", cwd or "", str(len(command)), *command),
        *(f"{name}={value}" for name, value in environ.items()),
    ]
    if any("\0" in field for field in fields):
        raise ValueError("the command, its working directory or its environment contains a NUL character")
    payload = b"\0".join(map(os.fsencode, fields))
    return b"%d\n%s" % (len(payload), payload)


class GuardProcess:
    """A guard, and the pipes to it and its job.

    The order goes through a pipe. So the job's environment (``LD_LIBRARY_PATH``, secrets) neither affects the
    guard nor appears on its command line.

    :param label: shown by ``ps``
    :param environ: environment of the guard itself
    :raises OSError: the guard could not be started
    """

    def __init__(self, label: str, environ: Mapping[str, str]) -> None:
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as child_ends:
            self._status_pipe, status = _pipe(on_failure, child_ends)
            stdout, job_stdout = _pipe(on_failure, child_ends)
            stderr, job_stderr = _pipe(on_failure, child_ends)
            # Not Popen's stdin: if Popen is interrupted once the guard runs, this closes, and the guard ends.
            orders, self._lifeline = _pipe(child_ends, on_failure)
            fds = (status.fileno(), stdout.fileno(), stderr.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), *map(str, fds), label],
                stdin=orders,
                stdout=job_stdout,
                stderr=job_stderr,
                env=dict(environ),
                pass_fds=fds,
                start_new_session=True,
            )
            on_failure.pop_all()
        os.set_blocking(self._status_pipe.fileno(), False)
        self._outputs = (stdout, stderr)
        self.pipes = (OutputPipe("stdout", stdout.fileno()), OutputPipe("stderr", stderr.fileno()))
        self._received: deque[bytes] = deque()
        self._is_order_sent = False
        self._stop_requested = False
        self.status = GuardStatus()
        self.is_gone = False

    def send_order(self, order: bytes) -> None:
        """Send the order, followed by a stop if one was requested meanwhile."""
        rest = memoryview(order)
        with contextlib.suppress(BrokenPipeError):  # the guard died, as the status pipe shows
            while rest:
                rest = rest[os.write(self._lifeline.fileno(), rest) :]
        self._is_order_sent = True
        if self._stop_requested:
            self._send(_STOP)

    def stop(self) -> None:
        """End all of the job. Safe in signal handlers: it writes at most one byte."""
        self._stop_requested = True
        if self._is_order_sent:
            self._send(_STOP)

    def release(self) -> None:
        """Let the processes that the main process left behind run without a guard."""
        self._send(_RELEASE)

    def withdraw(self) -> None:
        """Prevent the start if sending the order was interrupted. A job that has started keeps running."""
        if not self._is_order_sent:
            self._lifeline.close()

    def receive(self, timeout_seconds: float) -> None:
        """Wait for data from the guard or the job, and read it.

        Reentrant: a signal handler may interrupt it and call it again.
        """
        poller = select.poll()
        pipes = {pipe.fd: pipe for pipe in self.pipes if pipe.wants_reading}
        for fd in (*pipes, *([] if self.is_gone else [self._status_pipe.fileno()])):
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll(timeout_seconds * 1000):
            if fd in pipes:
                pipes[fd].receive()
            else:
                self._read_status()

    def drain(self, max_reads: int) -> None:
        """Read what is already in the pipes. The limit is for escaped processes that keep writing."""
        for pipe in self.pipes:
            for _ in range(max_reads):
                if not pipe.wants_reading or not pipe.receive():
                    break

    def kill_orphans(self) -> None:
        """Kill the job's process group after the guard was killed. The main process died with the guard."""
        if self.is_gone and self.status.pid is not None and not self.status.has_exited:
            with contextlib.suppress(OSError):
                os.killpg(self.status.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the pipes, and wait for the guard, which is about to exit."""
        for file in (self._lifeline, self._status_pipe, *self._outputs):
            file.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_SECONDS)

    def _send(self, byte: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # the guard has exited, or the pipe is closed
            self._lifeline.write(byte)

    def _read_status(self) -> None:
        chunks = _read_all(self._status_pipe.fileno(), self._received)
        self.status = parse_status(b"".join(chunks))
        self.is_gone = self.is_gone or b"" in chunks


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """Return the read end and the write end of a new pipe; each stack closes one of them."""
    read_fd, write_fd = os.pipe()
    return reading.enter_context(FileIO(read_fd)), writing.enter_context(FileIO(write_fd, "w"))


def _read_all(fd: int, kept: deque[bytes]) -> Iterable[bytes]:
    """Read once without blocking, store the chunk in the same step, and return all chunks read so far."""
    with contextlib.suppress(BlockingIOError):
        kept.extend(map(os.read, (fd,), (4096,)))
    return tuple(kept)
