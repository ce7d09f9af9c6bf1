# SPDX-License-Identifier: Apache-2.0
"""The task process's side of the guard: starts it, gives it its order, and hears what became of the job."""

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
class Said:
    """What the guard has said so far; see ``guard.py``.

    :param failure: stage and errno, if nothing could be started
    :param left: how many processes outlived the main one, once the guard is done
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
        """Whether nothing is left to end."""
        return self.failure is not None or self.left is not None


def parse(text: bytes) -> Said:
    """Read the guard's lines; one that is not complete yet is left out."""
    facts = {line.split()[0]: line.split()[1:] for line in text.decode("ascii").split("\n")[:-1]}

    def number(word: str) -> int | None:
        return int(facts[word][0]) if word in facts else None

    failed = facts.get("failed")
    return Said(
        failure=None if failed is None else (failed[0], int(failed[1])),
        pid=number("started"),
        code=number("exited"),
        signum=number("killed"),
        left=number("done"),
    )


def order(
    *, command: Sequence[str], environ: Mapping[str, str], cwd: str | None, grace_seconds: float, keep: bool
) -> bytes:
    """Return the order to the guard; see ``guard.Order``.

    :raises ValueError: a part cannot be given to a process
    """
    if not command:
        raise ValueError("the command is empty")
    if any("=" in name or not name for name in environ):
        raise ValueError("a name in the environment is empty or has '=' in it")
    fields = [
        *(str(grace_seconds), "keep" if keep else "", cwd or "", str(len(command)), *command),
        *(f"{name}={value}" for name, value in environ.items()),
    ]
    if any("\0" in field for field in fields):
        raise ValueError("the command, its folder or its environment has a NUL character in it")
    payload = b"\0".join(map(os.fsencode, fields))
    return b"%d\n%s" % (len(payload), payload)


class GuardProcess:
    """A guard, and the pipes to it and to its job.

    The order goes through a pipe: whatever the job's environment holds (``LD_LIBRARY_PATH``, secrets), it
    reaches neither the guard's own environment nor any command line but the job's own.

    :param label: shown by ``ps``
    :param environ: the guard's own environment
    :raises OSError: it could not be started
    """

    def __init__(self, label: str, environ: Mapping[str, str]) -> None:
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as its_ends:
            self._status, status = _pipe(on_failure, its_ends)
            stdout, job_stdout = _pipe(on_failure, its_ends)
            stderr, job_stderr = _pipe(on_failure, its_ends)
            # Not Popen's own: that may be interrupted when the guard runs and nobody has it. It then ends.
            orders, self._lifeline = _pipe(its_ends, on_failure)
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
        os.set_blocking(self._status.fileno(), False)
        self._outputs = (stdout, stderr)
        self.pipes = (OutputPipe("stdout", stdout.fileno()), OutputPipe("stderr", stderr.fileno()))
        self._words: deque[bytes] = deque()
        self._text = b""
        self._is_ordered = False
        self._stop_asked = False
        self.said = Said()
        self.is_gone = False

    def give(self, order: bytes) -> None:
        """Give the order; a stop asked for meanwhile follows it."""
        rest = memoryview(order)
        with contextlib.suppress(BrokenPipeError):  # it died: the status pipe says so
            while rest:
                rest = rest[os.write(self._lifeline.fileno(), rest) :]
        self._is_ordered = True
        if self._stop_asked:
            self._tell(_STOP)

    def stop(self) -> None:
        """Have all of the job ended. Safe anywhere: it writes one byte at most."""
        self._stop_asked = True
        if self._is_ordered:
            self._tell(_STOP)

    def release(self) -> None:
        """Let what the main process left behind go on without a guard."""
        self._tell(_RELEASE)

    def withdraw(self) -> None:
        """Have nothing started, if the order was interrupted. A job that was started goes on."""
        if not self._is_ordered:
            self._lifeline.close()

    def listen(self, timeout_seconds: float) -> None:
        """Wait until something comes from guard or job, and take it in.

        It may be interrupted by a signal handler that calls it as well.
        """
        poller = select.poll()
        pipes = {pipe.fd: pipe for pipe in self.pipes if pipe.wants_reading}
        for fd in (*pipes, *([] if self.is_gone else [self._status.fileno()])):
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll(timeout_seconds * 1000):
            if fd in pipes:
                pipes[fd].receive()
            else:
                self._hear()

    def drain(self, max_reads: int) -> None:
        """Take in what is in the pipes already; more may come from who has escaped, so not for ever."""
        for pipe in self.pipes:
            for _ in range(max_reads):
                if not pipe.wants_reading or not pipe.receive():
                    break

    def kill_orphans(self) -> None:
        """Kill the job's group after its guard was killed: the main process died with it."""
        if self.is_gone and self.said.pid is not None and not self.said.has_exited:
            with contextlib.suppress(OSError):
                os.killpg(self.said.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the pipes and collect the guard, which is about to exit."""
        for file in (self._lifeline, self._status, *self._outputs):
            file.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_SECONDS)

    def _tell(self, byte: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, or the pipe is closed
            self._lifeline.write(byte)

    def _hear(self) -> None:
        words = _read_all(self._status.fileno(), self._words)
        self.said = parse(b"".join(words))
        self.is_gone = self.is_gone or b"" in words


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """Return the ends of a new pipe, the reading one and the writing one, and by whom each is closed."""
    read_fd, write_fd = os.pipe()
    return reading.enter_context(FileIO(read_fd)), writing.enter_context(FileIO(write_fd, "w"))


def _read_all(fd: int, kept: deque[bytes]) -> Iterable[bytes]:
    """Read once without waiting, keep it in the same step, and return all that was read so far."""
    with contextlib.suppress(BlockingIOError):
        kept.extend(map(os.read, (fd,), (4096,)))
    return tuple(kept)
