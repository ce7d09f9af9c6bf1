# SPDX-License-Identifier: Apache-2.0
"""Runs a command on the worker, under a guard that ends it whatever becomes of the task process."""

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
from airflow_asyncaction.runners.guard_process import GuardProcess, Said, order

_MARGIN_SECONDS = 10.0
"""How long beyond the grace the guard may take: a process can be out of reach even of SIGKILL."""

_DRAIN_READS = 64
"""Enough for the largest pipe the kernel makes (1 MiB)."""

_POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


class LocalRunner:
    """Runs one command as a child process.

    Purpose: the job's output goes line by line to ``write_line``, its exit becomes an :class:`Exit`, and
    nothing of it outlives the task unended, even if the whole worker is killed.

    How it works: a guard process (``guard.py``) stands between this process and the job. It ends the job (the
    processes that escaped from its group, too) when it is told to, when the job's main process ends, or when
    this process is gone. The job gets an empty stdin: the task's own is Airflow's channel to the API server.
    In its output its own secret is masked, and what Airflow masks in this process. Under
    ``Completion.REPORT`` what the main process leaves behind is work: :meth:`run` returns, and the work goes
    on until :meth:`stop`, the death of this process, or :meth:`release`, which lets it live on.

    What it does not do: read the output of such work unless :meth:`wait` is called (it should write to a
    file); end processes of another user (``sudo``); without Linux, end what left the job's process group.

    :param command: words, or a string for bash (or sh where there is no bash)
    :param environ: the job's whole environment; the JOB_ variables are added
    :param cwd: the folder to start in; the task process's own if ``None``
    :param stop_grace: between SIGTERM and SIGKILL
    :param write_line: takes ``stdout`` or ``stderr``, and a line without its end
    :raises ValueError: command, cwd or environ cannot be given to a process
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
        self._order({})  # raises what there is to raise, before anything is registered
        self._guard: GuardProcess | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._stop_asked = False
        self._ends_by: float | None = None
        self._exit: Exit | None = None
        self._is_closed = False
        self._is_writing = False
        self._frames = 0

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit:
        """Start the job, pass its output on, and return how it ended.

        An exception out of ``write_line`` or a signal handler leaves the job running: :meth:`stop` ends it.
        If it interrupts the start, nothing is started.
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
        """Begin to end the job and all that it started: write a byte to a pipe, and return at once."""
        self._stop_asked = True
        if self._guard is not None:
            self._guard.stop()

    def wait(self, timeout_seconds: float | None = None) -> Exit | None:
        """Pass output on until all of the job has ended; return how, or ``None`` if it has not in time.

        In the thread of :meth:`run`: after it, or in a signal handler that interrupts it. What comes while a
        handler waits that interrupted ``write_line`` is written after the handler.
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
        """Let the work live on that a submitting command left behind: its action has ended.

        Without it, the work is ended when this process exits; after it, :meth:`stop` cannot reach the work.
        For other jobs, and while the main process runs, it does nothing.
        """
        guard = self._guard
        if guard is not None and self._keeps and guard.said.has_exited and not self._is_closed:
            guard.release()
            self._is_closed = True
            guard.close()

    def _launch(self, info: JobInfo) -> GuardProcess:
        guard = self._guard = GuardProcess(info.job_id, drop_airflow_variables(os.environ))
        for pipe in guard.pipes:
            pipe.mask_with(lambda line: masked(line.replace(info.secret_key, "***")))
        if self._stop_asked:  # while it was being started
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
        """Take in what comes and write the lines that it completes."""
        guard.listen(timeout_seconds)
        self._write_lines(guard)

    def _write_lines(self, guard: GuardProcess, *, flush: bool = False) -> None:
        """Write what lines there are, unless a frame below is writing: loggers have locks."""
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
        """Write what is left of the output and say how the job ended.

        What a process wrote before it ended is in the pipes by now: nothing is waited for.
        """
        guard.kill_orphans()
        guard.drain(_DRAIN_READS)
        self._write_lines(guard, flush=True)
        self._exit = _as_exit(guard, self._command[0], self._cwd, self._tail)
        if self._frames == 1 and (guard.is_gone or guard.said.is_final):
            self._is_closed = True
            guard.close()
            if guard.said.left:
                log.warning("The job left %d processes behind: they were ended", guard.said.left)
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
        message = "The process that guards the job was killed (out of memory?), and the job with it"
        return Exit(signal="SIGKILL" if said.pid else None, reason="GuardLost", message=message, tail=lines)
    message = "The job did not end though it was killed: it hangs in the kernel, or belongs to another user"
    return Exit(reason="NotEnded", message=message, tail=lines)


def _not_started(failure: tuple[str, int], program: str, cwd: str | None) -> tuple[str, str]:
    """Return reason and message."""
    stage, errno = failure
    why = os.strerror(errno)
    if stage == "fork":
        return "NotStarted", f"No process could be started: {why}"
    if stage == "chdir":
        return "BadWorkingDirectory", f"{cwd}: {why}"
    if errno in (ENOENT, ENOTDIR):
        return "CommandNotFound", f"{program}: {why} (the program, or what its #! line names)"
    return "CommandNotExecutable", f"{program}: {why}"


def _signal_name(said: Said) -> str | None:
    if said.signum is None:
        return None
    try:
        return signal.Signals(said.signum).name
    except ValueError:
        return f"SIG{said.signum}"  # a real-time signal
