# SPDX-License-Identifier: Apache-2.0
"""Wrapper: runs an unmodified program as a job, and reports on its behalf."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from types import FrameType
from typing import Any

from airflow_asyncaction.exceptions import JobInfoError, ServerError, Superseded
from airflow_asyncaction.job.client import Job, this_agent
from airflow_asyncaction.job.outgoing_reports import clean_text
from airflow_asyncaction.job.program_output import Pump
from airflow_asyncaction.job.reporter import Timing
from airflow_asyncaction.job.stderr import NOT_A_JOB, print_stderr
from airflow_asyncaction.job.wrapper_files import (
    FROM_TERMINAL,
    Binding,
    TransferFailed,
    TransferInterrupted,
    fetch_inputs,
    upload_existing_outputs,
    upload_outputs,
)
from airflow_asyncaction.protocol.compat import keyword_dataclass
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.reports import TAIL_LINES, cut_tail

WRAPPER_FAILED = 125
CANNOT_RUN = 126
NOT_FOUND = 127

_TO_GROUP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # forwarded to the program and all its children
_TO_PROGRAM = (signal.SIGUSR1, signal.SIGUSR2)  # would kill children that do not handle them
_POLL_SECONDS = 0.2
_QUIET_SECONDS = 5.0
_KILLED_SECONDS = 5.0  # processes that survive SIGKILL this long cannot be killed
_PR_SET_PDEATHSIG = 1


@keyword_dataclass
class Options:
    """Options of the wrapper.

    :param heartbeat_seconds: maximum interval between two reports
    :param stop_grace_seconds: between SIGTERM and SIGKILL if the server asks the job to stop
    :param report_timeout_seconds: how long to resend the terminal report while the server is unreachable
    :param inputs: files to download before the program starts
    :param outputs: files to upload after the program succeeds
    :param output_on_failure: whether to also upload existing outputs if the program fails or is stopped
    """

    heartbeat_seconds: float = 10.0
    stop_grace_seconds: float = 10.0
    report_timeout_seconds: float = 330.0
    inputs: Sequence[Binding] = ()
    outputs: Sequence[Binding] = ()
    output_on_failure: bool = False


def run(command: Sequence[str], options: Options) -> int:
    """Run a program, report on its behalf, and return the exit code of the wrapper.

    If a signal killed the program, the wrapper kills itself with the same signal, so that its parent process
    sees the real cause. If that is impossible (as process 1), it returns 128 + signal.

    :returns: the program's exit code; 125: the wrapper failed; 126: the program cannot be run; 127: the
        program was not found
    """
    try:
        info = JobInfo.from_environ(os.environ)
        if info is None:
            print_stderr(NOT_A_JOB)
            if options.inputs or options.outputs:
                print_stderr("Inputs and outputs are ignored: files only exist in a job")
            return _exec(command)
        agent = {**this_agent(), "program": clean_text(command[0])}
        job = Job(info, agent=agent, timing=_timing(options))
    except JobInfoError as error:
        print_stderr(str(error))
        return WRAPPER_FAILED
    try:
        return _run_job(command, options, job)
    except TransferFailed as failure:
        print_stderr(str(failure))
        _report_failure(job, str(failure), failure.name)
        return WRAPPER_FAILED
    except TransferInterrupted as interruption:
        _report_failure(job, str(interruption), "Stopped" if job.is_stopping() else "Signal")
        return _exit_as(-interruption.number)


def _run_job(command: Sequence[str], options: Options, job: Job) -> int:
    fetch_inputs(job, options.inputs)
    try:
        program = _Program(command, job, options)
    except OSError as error:
        code, text = _cannot_start(command[0], error)
        print_stderr(text)
        _report_failure(job, text, "NotFound" if code == NOT_FOUND else "CannotRun")
        return code
    returncode = program.wait()
    if returncode == 0 and not job.is_stopping():
        upload_outputs(job, options.outputs)
    elif options.output_on_failure:
        upload_existing_outputs(job, options.outputs)
    _report_end(job, returncode, program.tail)
    return _exit_as(returncode)


def report_wrapper_failure(message: str) -> None:
    """Report that the wrapper itself failed, if this process is a job."""
    with contextlib.suppress(JobInfoError):
        info = JobInfo.from_environ(os.environ)
        if info is not None:
            job = Job(info, timing=_timing(Options(report_timeout_seconds=10.0)))
            _report_failure(job, message, "WrapperFailed")


class _Program:
    """The wrapped program, in its own process group. On Linux, it is killed if the wrapper dies.

    It is started before any thread: code between fork and exec must not wait for a lock of another thread.
    """

    def __init__(self, command: Sequence[str], job: Job, options: Options) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._job = job
        self._stop_grace_seconds = options.stop_grace_seconds
        self._early_signals: list[int] | None = []  # None once the program is running
        self._is_over = False
        self._wake_fd = _wake_on_signals(self._forward)
        self._process = process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            close_fds=False,
            preexec_fn=_before_exec(),  # noqa: PLW1509 - there is no other thread yet
        )
        early_signals, self._early_signals = self._early_signals, None
        for number in early_signals:
            self._forward(number, None)
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self._pumps = (
            Pump(os.dup(process.stdout.fileno()), 1, functools.partial(self._take_line, "stdout")),
            Pump(os.dup(process.stderr.fileno()), 2, functools.partial(self._take_line, "stderr")),
        )
        process.stdout.close()
        process.stderr.close()
        job.start()
        for pump in self._pumps:
            pump.start()

    def wait(self) -> int:
        """Wait for the program and its output. Return its exit code, or the negative number of a signal."""
        kill_at: float | None = None
        while self._process.poll() is None:
            kill_at = self._check_stop(kill_at)
            if select.select([self._wake_fd], [], [], _POLL_SECONDS)[0]:
                os.read(self._wake_fd, 4096)
        if kill_at is not None:
            self._end_group(kill_at)
        ended_at = time.monotonic()
        for pump in self._pumps:
            pump.finish(ended_at, _QUIET_SECONDS)
        self._is_over = True
        _close_output()
        return self._process.returncode

    def _end_group(self, kill_at: float) -> None:
        """Wait for the program's children, within the same grace period."""
        while self._signal_group(0) and time.monotonic() < kill_at + _KILLED_SECONDS:
            self._check_stop(kill_at)
            # Process 1 of a container inherits orphaned processes.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-self._process.pid, os.WNOHANG)
            time.sleep(0.05)

    def _check_stop(self, kill_at: float | None) -> float | None:
        """Stop the process group if the server asks for it. Return the time at which to kill it."""
        if kill_at is None:
            if not self._job.is_stopping():
                return None
            self._signal_group(signal.SIGTERM)
            return time.monotonic() + self._stop_grace_seconds
        if time.monotonic() >= kill_at:
            self._signal_group(signal.SIGKILL)
        return kill_at

    def _signal_group(self, number: int) -> bool:
        """Signal the process group. Return whether it still has processes."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS refuses if only zombies remain
            return False
        return True

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if self._early_signals is not None:
            self._early_signals.append(number)
        elif self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if number in _TO_GROUP:
                    os.killpg(self._process.pid, number)
                else:
                    os.kill(self._process.pid, number)
        elif number in _TO_GROUP and self._is_over:
            # The program has ended: do not wait for the server any longer.
            os._exit(_shell_code(self._process.returncode))

    def _take_line(self, stream: str, text: str) -> None:
        self.tail.append(text)
        self._job.log(text, stream=stream)


def _timing(options: Options) -> Timing:
    return Timing(
        heartbeat_seconds=options.heartbeat_seconds,
        report_patience_seconds=options.report_timeout_seconds,
        exit_patience_seconds=min(Timing().exit_patience_seconds, options.report_timeout_seconds),
    )


def _exec(command: Sequence[str]) -> int:
    """Replace this process with the program: outside Airflow, there is nothing to report."""
    try:
        # Python ignores these signals, and the program would inherit that.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], list(command))  # noqa: S606 - the purpose of the wrapper
    except OSError as error:
        code, text = _cannot_start(command[0], error)
        print_stderr(text)
        return code


def _cannot_start(program: str, error: OSError) -> tuple[int, str]:
    code = NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
    return code, f"{program}: {error.strerror}"


def _report_end(job: Job, returncode: int, tail: Iterable[str]) -> None:
    """Report the end of the program. If it was asked to stop, that is ERROR whatever its exit code."""
    if returncode == 0 and not job.is_stopping():
        _report(job, job.succeed)
        return
    name, text = "ExitCode", f"The program exited with code {returncode}"
    if returncode < 0:
        name, text = "Signal", f"The program was killed by {_signal_name(-returncode)}"
    if job.is_stopping():
        name, text = "Stopped", f"{text} after it was asked to stop"
    tail_text = "\n".join(cut_tail(list(tail)))
    _report_failure(job, f"{text}\n{tail_text}" if tail_text else text, name)


def _report_failure(job: Job, message: str, name: str) -> None:
    _report(job, functools.partial(job.fail, message, name))


def _report(job: Job, send: Callable[[], None]) -> None:
    """Report the end, unless the program has reported its own. Errors are printed."""
    try:
        send()
        job.flush()
    except Superseded:
        job.discard()  # the program was stopped because it was superseded, or had already ended
    except ServerError as error:
        if error.status != HTTPStatus.CONFLICT:  # otherwise, the program has reported its own end
            print_stderr(f"The end could not be reported: {error}")
            job.discard()
    job.close()


def _close_output() -> None:
    """Close stdout, so that its readers do not wait until the end is reported."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)


def _exit_as(returncode: int) -> int:
    if returncode >= 0:
        return returncode
    number = -returncode
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program has already dumped core if it should
    with contextlib.suppress(OSError):  # SIGKILL has no handler
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return _shell_code(returncode)


def _shell_code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _wake_on_signals(handler: Callable[[int, FrameType | None], Any]) -> int:
    """Handle the forwarded signals. Return a descriptor that is readable after each of them and SIGCHLD.

    Signals that are ignored stay ignored, here and in the program (``nohup``). SIGINT is an exception: shells
    ignore it in all background processes.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    for number in (*_TO_GROUP, *_TO_PROGRAM):
        if number in FROM_TERMINAL or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    return reader


def _before_exec() -> Callable[[], None]:
    """Return the function to call between fork and exec.

    The program becomes the leader of a process group, gets the default handlers of terminal signals, and on
    Linux is killed if the wrapper dies.
    """
    prctl = _prctl()
    parent = os.getpid()

    def prepare() -> None:
        os.setpgid(0, 0)
        for number in FROM_TERMINAL:
            signal.signal(number, signal.SIG_DFL)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # the wrapper died before prctl()
                os._exit(WRAPPER_FAILED)

    return prepare


def _prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes
    except ImportError:  # Python was built without it
        return None
    prctl: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    return prctl
