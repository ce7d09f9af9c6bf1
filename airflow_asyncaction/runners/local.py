# SPDX-License-Identifier: Apache-2.0
"""LocalRunner: runs a command under a guard, which ends it even if the task process is killed."""

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
from airflow_asyncaction.runners.base import OnLaunched
from airflow_asyncaction.runners.guard_process import GuardProcess, Said, order

_AIRFLOW_PREFIXES = ("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_", "_AIRFLOW_", "__AIRFLOW_")

_MARGIN_SECONDS = 10.0
"""How long the guard may take after the grace period: some processes do not die even by SIGKILL."""

_DRAIN_READS = 64
"""Enough reads for the largest pipe of the kernel (1 MiB)."""

_POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


def base_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment without variables that contain Airflow's secrets, or lead to them."""
    return {name: value for name, value in environ.items() if not name.startswith(_AIRFLOW_PREFIXES)}


class LocalRunner:
    """Runs one command as a child process.

    Purpose: pass the job's output line by line to ``write_line``, return its exit, and make sure that no
    process of the job outlives the task, even if the whole worker is killed.

    How it works: a guard process (``guard.py``) is the job's parent. It ends the job, including processes
    that left its process group, when this process asks for it, when the job's main process exits, or when
    this process is gone. The job gets an empty stdin, since the task's own is Airflow's channel to the API
    server. The job's secret, and all that Airflow masks in this process, is masked in the output. Under
    ``Completion.REPORT``, processes that the main process leaves behind are work: :meth:`run` returns, and
    the work continues until :meth:`stop` or until this process dies. :meth:`release` lets it run on.

    What it does not do: read the output of such work unless :meth:`wait` is called (the work should write to
    a file). End processes of another user (``sudo``). End processes that left the job's process group, except
    on Linux.

    :param command: a list of strings, or a string for bash (for sh if there is no bash)
    :param environ: the job's whole environment, except the JOB_ variables, which are added
    :param cwd: the working directory; ``None``: that of the task process
    :param stop_grace: the time between SIGTERM and SIGKILL
    :param write_line: called with ``stdout`` or ``stderr``, and a line without its line break
    :raises ValueError: a process cannot be started with this command, cwd or environ
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
        self._command = _words(command, environ)
        self._environ = environ
        self._cwd = cwd
        self._grace_seconds = stop_grace.total_seconds()
        self._write_line = write_line
        self._keeps = completion is Completion.REPORT
        self._order({})  # raises ValueError before the action is registered
        self._guard: GuardProcess | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._stop_asked = False
        self._ends_by: float | None = None
        self._exit: Exit | None = None
        self._is_closed = False
        self._is_writing = False
        self._frames = 0

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit:
        """Start the job, pass on its output, and return its exit.

        An exception from ``write_line`` or a signal handler leaves the job running, and :meth:`stop` ends it.
        If the exception interrupts the start, nothing is started.
        """
        if self._stop_asked:
            return Exit(reason="Stopped", message="The job was asked to stop before it was started")
        self._frames += 1
        try:
            guard = self._launch(info)
            is_announced = False
            while not self._is_over(guard, at_exit=self._keeps):
                self._pump(guard, _POLL_SECONDS)
                if guard.said.pid is not None and not is_announced:
                    is_announced = True
                    on_launched({"host": socket.gethostname(), "pid": guard.said.pid})
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
        """Begin to stop the job and everything it started. Writes a byte to a pipe and returns at once."""
        self._stop_asked = True
        if self._guard is not None:
            self._guard.stop()

    def wait(self, timeout_seconds: float | None = None) -> Exit | None:
        """Pass on output until all of the job has ended, and return its exit; ``None`` after the timeout.

        Call it in the thread of :meth:`run`, after that or in a signal handler that interrupts it. If the
        handler has interrupted ``write_line``, output that arrives meanwhile is written after the handler.
        """
        guard = self._guard
        if guard is None or self._is_closed:
            return self._exit
        wait_until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._frames += 1
        try:
            self._pump(guard, 0)
            while not self._is_over(guard, at_exit=False):
                left = _POLL_SECONDS if wait_until is None else wait_until - time.monotonic()
                if left <= 0:
                    return None
                self._pump(guard, min(left, _POLL_SECONDS))
            return self._conclude(guard)
        finally:
            self._frames -= 1

    def release(self) -> None:
        """Let the work run on that a submitting command left behind, because its action has ended.

        Without this call, the work is ended when this process exits. After it, :meth:`stop` no longer reaches
        the work. It does nothing for other jobs, or while the main process runs.
        """
        guard = self._guard
        if guard is not None and self._keeps and guard.said.has_exited and not self._is_closed:
            guard.release()
            self._is_closed = True
            guard.close()

    def _launch(self, info: JobInfo) -> GuardProcess:
        guard = self._guard = GuardProcess(info.job_id, base_environ(os.environ))
        for pipe in guard.pipes:
            pipe.mask_with(lambda line: masked(line.replace(info.secret_key, "***")))
        if self._stop_asked:  # while the guard was starting
            guard.stop()
        guard.give(self._order(info.to_environ()))
        return guard

    def _order(self, job_environ: Mapping[str, str]) -> bytes:
        return order(
            command=self._command,
            environ={**self._environ, **job_environ},
            cwd=self._cwd,
            grace_seconds=self._grace_seconds,
            keep=self._keeps,
        )

    def _is_over(self, guard: GuardProcess, *, at_exit: bool) -> bool:
        if guard.is_gone or guard.said.is_final or (at_exit and guard.said.has_exited):
            return True
        now = time.monotonic()
        if self._ends_by is None and (self._stop_asked or (guard.said.has_exited and not self._keeps)):
            self._ends_by = now + self._grace_seconds + _MARGIN_SECONDS
        return self._ends_by is not None and now > self._ends_by

    def _pump(self, guard: GuardProcess, timeout_seconds: float) -> None:
        """Read what has arrived, and write the lines that are complete."""
        guard.listen(timeout_seconds)
        self._write_lines(guard)

    def _write_lines(self, guard: GuardProcess, *, flush: bool = False) -> None:
        """Write the available lines, unless an interrupted frame is writing: loggers have locks."""
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
        """Write the rest of the output, and return the job's exit.

        It does not wait: whatever a process wrote before its exit is in the pipes by now.
        """
        guard.kill_orphans()
        guard.drain(_DRAIN_READS)
        self._write_lines(guard, flush=True)
        self._exit = _as_exit(guard, self._command[0], self._cwd, self._tail)
        if self._frames == 1 and (guard.is_gone or guard.said.is_final):
            self._is_closed = True
            guard.close()
            if guard.said.left:
                log.warning("Ended %d processes that the job had left behind", guard.said.left)
        return self._exit


def _words(command: Sequence[str] | str, environ: Mapping[str, str]) -> Sequence[str]:
    if not isinstance(command, str):
        return list(command)
    shell = "bash" if shutil.which("bash", path=environ.get("PATH")) else "sh"
    return [shell, "-c", command]


def _as_exit(guard: GuardProcess, program: str, cwd: str | None, tail: Sequence[str]) -> Exit:
    said, lines = guard.said, tuple(tail)
    if said.failure is not None:
        reason, message = _not_started(said.failure, program, cwd)
        return Exit(reason=reason, message=message, tail=lines)
    if said.has_exited:
        return Exit(code=said.code, signal=_signal_name(said), tail=lines)
    if guard.is_gone:
        message = "The job's guard process was killed (out of memory?), and the job with it"
        return Exit(signal="SIGKILL" if said.pid else None, reason="GuardLost", message=message, tail=lines)
    message = "The job survived SIGKILL: it hangs in the kernel, or runs as another user"
    return Exit(reason="NotEnded", message=message, tail=lines)


def _not_started(failure: tuple[str, int], program: str, cwd: str | None) -> tuple[str, str]:
    """Return reason and message of the exit."""
    stage, errno = failure
    why = os.strerror(errno)
    if stage == "fork":
        return "NotStarted", f"No process could be started: {why}"
    if stage == "chdir":
        return "BadWorkingDirectory", f"{cwd}: {why}"
    if errno in (ENOENT, ENOTDIR):
        return "CommandNotFound", f"{program}: {why} (the program, or the interpreter in its #! line)"
    return "CommandNotExecutable", f"{program}: {why}"


def _signal_name(said: Said) -> str | None:
    if said.signum is None:
        return None
    try:
        return signal.Signals(said.signum).name
    except ValueError:
        return f"SIG{said.signum}"  # a real-time signal
