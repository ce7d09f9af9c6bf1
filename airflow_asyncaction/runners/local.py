# SPDX-License-Identifier: Apache-2.0
"""Local runner: runs a command on the worker, under a guard that ends it even if the task process dies."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from errno import ENOENT, ENOTDIR

from airflow_asyncaction.hooks.known_secrets import masked
from airflow_asyncaction.protocol.actions import Completion
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.reports import TAIL_LINES
from airflow_asyncaction.runners.base import OnLaunched, drop_airflow_variables
from airflow_asyncaction.runners.guard_process import GuardProcess, GuardStatus, encode_order

_MARGIN_SECONDS = 10.0
"""How long the guard may take beyond the grace period: even SIGKILL may not end a process."""

_DRAIN_READS = 64
"""Enough for the largest pipe of the kernel (1 MiB)."""

_POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


class LocalRunner:
    """Runs one command as a child process.

    Purpose: passes the job's output line by line to ``write_line``, and turns its exit into an :class:`Exit`.
    No process of the job outlives the task, even if the whole worker is killed.

    How it works: a guard process (``guard.py``) runs between this process and the job. It ends the job,
    including processes that left its group, on :meth:`stop`, when the job's main process ends, or when
    this process dies. The job's stdin is empty: the task's own is Airflow's channel to the API server. The
    job's secret, and all that Airflow masks in this process, are masked in the output. Under
    ``Completion.REPORT`` the processes that the main process leaves behind are work: :meth:`run` returns, and
    the work continues until :meth:`stop`, the death of this process, or :meth:`release`, after which it
    outlives this process.

    What it does not do: read the output of such work unless :meth:`wait` is called (it should write to a
    file); end processes of another user (``sudo``); on other systems than Linux, end processes that left the
    job's process group.

    :param command: words, or a string for bash (sh if there is no bash)
    :param environ: the job's environment, to which the JOB_ variables are added
    :param cwd: working directory; that of the task process if ``None``
    :param stop_grace: time between SIGTERM and SIGKILL
    :param write_line: called with ``stdout`` or ``stderr``, and a line without its newline
    :raises ValueError: command, cwd or environ cannot be passed to a process
    """

    name = "local"
    copies_reported_logs = True

    def __init__(
        self,
        *,
        command: Sequence[str] | str,
        environ: Mapping[str, str],
        cwd: str | None,
        stop_grace: timedelta,
        write_line: Callable[[str, str], None],
        completion: Completion,
    ) -> None:
        self._command = _split_command(command, environ)
        self._environ = environ
        self._cwd = cwd
        self._grace_seconds = stop_grace.total_seconds()
        self._write_line = write_line
        self._keeps = completion is Completion.REPORT
        self._encode_order({})  # raises ValueError before anything is registered
        self._guard: GuardProcess | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._stop_requested = False
        self._ends_by: float | None = None
        self._exit: Exit | None = None
        self._is_closed = False
        self._is_writing = False
        self._frames = 0

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit:
        """Start the job, pass on its output, and return how it ended.

        An exception in ``write_line`` or a signal handler leaves the job running: :meth:`stop` ends it. If it
        interrupts the start, nothing is started.
        """
        if self._stop_requested:
            return Exit(reason="Stopped", message="The job was asked to stop before it started")
        self._frames += 1
        try:
            guard = self._launch(info)
            is_announced = False
            while not self._is_over(guard, at_exit=self._keeps):
                self._pump(guard, _POLL_SECONDS)
                if guard.status.pid is not None and not is_announced:
                    is_announced = True
                    on_launched({"host": socket.gethostname(), "pid": guard.status.pid})
            return self._conclude(guard)
        except OSError as error:
            if self._guard is not None:
                raise
            return Exit(reason="NotStarted", message=f"No process could be started: {error}")
        finally:
            if self._exit is None and self._guard is not None:
                self._guard.withdraw()
            self._frames -= 1

    def stop(self) -> None:
        """Begin to end the job and all that it started: write one byte to a pipe, and return at once."""
        self._stop_requested = True
        if self._guard is not None:
            self._guard.stop()

    def wait(self, timeout_seconds: float | None = None) -> Exit | None:
        """Pass on output until all processes have ended. Return the exit; ``None`` if the timeout expires.

        Call it in the thread of :meth:`run`, after it or in a signal handler that interrupts it. If the
        handler interrupted ``write_line``, lines that arrive meanwhile are written after that call.
        """
        guard = self._guard
        if guard is None or self._is_closed:
            return self._exit
        wait_until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._frames += 1
        try:
            self._pump(guard, 0)
            while not self._is_over(guard, at_exit=False):
                remaining = _POLL_SECONDS if wait_until is None else wait_until - time.monotonic()
                if remaining <= 0:
                    return None
                self._pump(guard, min(remaining, _POLL_SECONDS))
            return self._conclude(guard)
        finally:
            self._frames -= 1

    def release(self) -> None:
        """Let submitted work outlive this process, once its action has ended.

        Otherwise the guard ends the work when this process exits. Once released, :meth:`stop` cannot reach
        it. Does nothing for other jobs, or while the main process runs.
        """
        guard = self._guard
        if guard is not None and self._keeps and guard.status.has_exited and not self._is_closed:
            guard.release()
            self._is_closed = True
            guard.close()

    def _launch(self, info: JobInfo) -> GuardProcess:
        guard = self._guard = GuardProcess(info.job_id, drop_airflow_variables(os.environ))
        for pipe in guard.pipes:
            pipe.mask_with(lambda line: masked(line.replace(info.secret_key, "***")))
        if self._stop_requested:  # while it was starting
            guard.stop()
        guard.send_order(self._encode_order(info.to_environ()))
        return guard

    def _encode_order(self, job_environ: Mapping[str, str]) -> bytes:
        return encode_order(
            command=self._command,
            environ={**self._environ, **job_environ},
            cwd=self._cwd,
            grace_seconds=self._grace_seconds,
            keep=self._keeps,
        )

    def _is_over(self, guard: GuardProcess, *, at_exit: bool) -> bool:
        if guard.is_gone or guard.status.is_final or (at_exit and guard.status.has_exited):
            return True
        now = time.monotonic()
        if self._ends_by is None and (self._stop_requested or (guard.status.has_exited and not self._keeps)):
            self._ends_by = now + self._grace_seconds + _MARGIN_SECONDS
        return self._ends_by is not None and now > self._ends_by

    def _pump(self, guard: GuardProcess, timeout_seconds: float) -> None:
        """Read from the guard and the job, and write the completed lines."""
        guard.receive(timeout_seconds)
        self._write_lines(guard)

    def _write_lines(self, guard: GuardProcess, *, flush: bool = False) -> None:
        """Write the completed lines, unless an outer frame is writing: loggers hold locks."""
        if self._is_writing:
            return
        self._is_writing = True
        try:
            for pipe in guard.pipes:
                pipe.split()
                if flush:
                    pipe.flush()
                while pipe.lines:
                    line = pipe.lines.popleft()
                    self._tail.append(line)
                    self._write_line(pipe.name, line)
        finally:
            self._is_writing = False

    def _conclude(self, guard: GuardProcess) -> Exit:
        """Write the rest of the output, and return how the job ended.

        What a process wrote before it ended is already in the pipes: there is nothing to wait for.
        """
        guard.kill_orphans()
        guard.drain(_DRAIN_READS)
        self._write_lines(guard, flush=True)
        self._exit = _describe_exit(guard, self._command[0], self._cwd, self._tail)
        if self._frames == 1 and (guard.is_gone or guard.status.is_final):
            self._is_closed = True
            guard.close()
            if guard.status.left:
                log.warning("The job left %d processes behind, which were terminated", guard.status.left)
        return self._exit


def _split_command(command: Sequence[str] | str, environ: Mapping[str, str]) -> Sequence[str]:
    if not isinstance(command, str):
        return list(command)
    shell = "bash" if shutil.which("bash", path=environ.get("PATH")) else "sh"
    return [shell, "-c", command]


def _describe_exit(guard: GuardProcess, program: str, cwd: str | None, tail: Sequence[str]) -> Exit:
    status, lines = guard.status, tuple(tail)
    if status.failure is not None:
        reason, message = _describe_failure(status.failure, program, cwd)
        return Exit(reason=reason, message=message, tail=lines)
    if status.has_exited:
        return Exit(code=status.code, signal=_signal_name(status), tail=lines)
    if guard.is_gone:
        message = "The guard process of the job was killed (out of memory?), and the job with it"
        return Exit(signal="SIGKILL" if status.pid else None, reason="GuardLost", message=message, tail=lines)
    message = "The job was killed but did not end: it hangs in the kernel, or runs as another user"
    return Exit(reason="NotEnded", message=message, tail=lines)


def _describe_failure(failure: tuple[str, int], program: str, cwd: str | None) -> tuple[str, str]:
    """Return the reason and message of a job that could not be started."""
    stage, errno = failure
    why = os.strerror(errno)
    if stage == "fork":
        return "NotStarted", f"No process could be started: {why}"
    if stage == "chdir":
        return "BadWorkingDirectory", f"{cwd}: {why}"
    if errno in (ENOENT, ENOTDIR):
        return "CommandNotFound", f"{program}: {why} (the program, or the interpreter in its #! line)"
    return "CommandNotExecutable", f"{program}: {why}"


def _signal_name(status: GuardStatus) -> str | None:
    if status.signum is None:
        return None
    try:
        return signal.Signals(status.signum).name
    except ValueError:
        return f"SIG{status.signum}"  # a real-time signal
