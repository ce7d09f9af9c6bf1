# SPDX-License-Identifier: Apache-2.0
"""Runs a program that knows nothing of the job protocol, and reports for it."""

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
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from airflow_asyncaction.exceptions import JobInfoError, ServerError, Superseded
from airflow_asyncaction.job.client import Job, this_agent
from airflow_asyncaction.job.log_queue import clean_text
from airflow_asyncaction.job.program_output import Pump
from airflow_asyncaction.job.proxies import Proxies
from airflow_asyncaction.job.stderr import print_stderr
from airflow_asyncaction.job.timing import Timing
from airflow_asyncaction.job.wrapper_files import (
    FROM_TERMINAL,
    Binding,
    TransferEnded,
    TransferFailed,
    fetch_inputs,
    upload_outputs,
    upload_what_is_there,
)
from airflow_asyncaction.protocol.compat import keyword_dataclass
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.reports import TAIL_LINES, cut_tail

WRAPPER_FAILED = 125
CANNOT_RUN = 126
NOT_FOUND = 127

_TO_GROUP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # they end a program with all it started
_TO_PROGRAM = (signal.SIGUSR1, signal.SIGUSR2)  # a child that does not know them would die of them
_POLL_SECONDS = 0.2
_QUIET_SECONDS = 5.0
_KILLED_SECONDS = 5.0  # what is there so long after SIGKILL, we cannot end
_PR_SET_PDEATHSIG = 1
_CONFLICT = 409


@keyword_dataclass
class Options:
    """How to wrap.

    :param stop_grace_seconds: between SIGTERM and SIGKILL when the server asks the job to stop
    :param report_timeout_seconds: how long the end is re-sent to a server that is away
    :param inputs: are fetched before the program is started
    :param outputs: are uploaded after it has succeeded
    :param output_on_failure: ... or ended in any other way, as far as they are there
    """

    heartbeat_seconds: float = 10.0
    stop_grace_seconds: float = 10.0
    report_timeout_seconds: float = 330.0
    inputs: Sequence[Binding] = ()
    outputs: Sequence[Binding] = ()
    output_on_failure: bool = False


def run(command: Sequence[str], options: Options, environ: Mapping[str, str]) -> int:
    """Run a program and report for it; return the code to exit with.

    A program that was killed by a signal takes this process with it by the same signal: whoever started it
    sees what really happened. 128 + signal is returned where that cannot be (process 1).

    :returns: the program's exit code; 125: this wrapper failed, 126: the program cannot be run, 127: it was
        not found
    """
    try:
        info = JobInfo.from_environ(environ)
        if info is None:
            print_stderr("there are no JOB_ variables, so this is no job of Airflow: nothing is reported")
            if options.inputs or options.outputs:
                print_stderr("there are no files outside Airflow: inputs and outputs are ignored")
            return _become(command, environ)
        agent = {**this_agent(), "program": clean_text(command[0])}
        job = Job(info, agent=agent, timing=_timing(options), proxies=Proxies(environ))
    except JobInfoError as error:
        print_stderr(str(error))
        return WRAPPER_FAILED
    try:
        return _run_job(command, options, environ, job)
    except TransferFailed as failure:
        text, name = str(failure), failure.name
        print_stderr(text)
        _report(lambda: job.fail(text, name=name), job)
        return WRAPPER_FAILED
    except TransferEnded as ended:
        text, name = str(ended), "Stopped" if job.is_stopping() else "Signal"
        _report(lambda: job.fail(text, name=name), job)
        return _leave_as(-ended.number)


def _run_job(command: Sequence[str], options: Options, environ: Mapping[str, str], job: Job) -> int:
    fetch_inputs(job, options.inputs)
    try:
        program = _Program(command, environ, job, options)
    except OSError as error:
        code, text = _cannot_start(command[0], error)
        print_stderr(text)
        _report(lambda: job.fail(text, name="NotFound" if code == NOT_FOUND else "CannotRun"), job)
        return code
    returncode = program.wait()
    if returncode == 0 and not job.is_stopping():
        upload_outputs(job, options.outputs)
    elif options.output_on_failure:
        upload_what_is_there(job, options.outputs)
    _report(functools.partial(_report_end, job, returncode, tuple(program.tail)), job)
    return _leave_as(returncode)


def report_failure(message: str, environ: Mapping[str, str]) -> None:
    """Report that the wrapper itself failed, if there is a server to report to."""
    with contextlib.suppress(JobInfoError):
        info = JobInfo.from_environ(environ)
        if info is not None:
            timing = _timing(Options(report_timeout_seconds=10.0))
            job = Job(info, timing=timing, proxies=Proxies(environ))
            _report(lambda: job.fail(message, name="WrapperFailed"), job)


class _Program:
    """The program, in a process group of its own, on Linux bound to die with this process.

    It is started before any thread is: what runs between fork and exec must not meet a lock held elsewhere.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], job: Job, options: Options
    ) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._job = job
        self._stop_grace_seconds = options.stop_grace_seconds
        self._early_signals: list[int] = []
        self._is_over = False
        self._process: subprocess.Popen[bytes] | None = None
        self._wake_fd = _wake_on_signals(self._forward)
        self._process = process = subprocess.Popen(
            command,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            close_fds=False,
            preexec_fn=_before_exec(),  # noqa: PLW1509 - there is no other thread yet
        )
        for number in self._early_signals:
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
        """Wait for the program's end and the rest of its output; return its code, or less 0 for a signal."""
        assert self._process is not None  # noqa: S101
        kill_at: float | None = None
        while self._process.poll() is None:
            kill_at = self._obey(kill_at)
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
        """Wait for what the program has started: it has the same grace."""
        assert self._process is not None  # noqa: S101
        while self._signal_group(0) and time.monotonic() < kill_at + _KILLED_SECONDS:
            self._obey(kill_at)
            with contextlib.suppress(ChildProcessError):  # as process 1 of a container we inherit them
                os.waitpid(-self._process.pid, os.WNOHANG)
            time.sleep(0.05)

    def _obey(self, kill_at: float | None) -> float | None:
        """Begin, or finish, to end the group once the server asks for it; return when to kill it."""
        if kill_at is None:
            if not self._job.is_stopping():
                return None
            self._signal_group(signal.SIGTERM)
            return time.monotonic() + self._stop_grace_seconds
        if time.monotonic() >= kill_at:
            self._signal_group(signal.SIGKILL)
        return kill_at

    def _signal_group(self, number: int) -> bool:
        """Signal the group; return whether anything is left in it."""
        assert self._process is not None  # noqa: S101
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS: only zombies are left
            return False
        return True

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        process = self._process
        if process is None:
            self._early_signals.append(number)
        elif process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if number in _TO_GROUP:
                    os.killpg(process.pid, number)
                else:
                    os.kill(process.pid, number)
        elif number in _TO_GROUP and self._is_over:  # we are asked not to wait for the server
            os._exit(_shell_code(process.returncode))

    def _take_line(self, stream: str, text: str) -> None:
        self.tail.append(text)
        self._job.log(text, stream=stream)


def _timing(options: Options) -> Timing:
    return Timing(
        heartbeat_seconds=options.heartbeat_seconds,
        report_patience_seconds=options.report_timeout_seconds,
        exit_patience_seconds=min(Timing().exit_patience_seconds, options.report_timeout_seconds),
    )


def _become(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Outside Airflow there is nothing to wrap: the program takes this process over."""
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and that would be inherited
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(command[0], list(command), environ)  # noqa: S606 - to run it is what we are for
    except OSError as error:
        code, text = _cannot_start(command[0], error)
        print_stderr(text)
        return code


def _cannot_start(program: str, error: OSError) -> tuple[int, str]:
    code = NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
    return code, f"{program}: {error.strerror}"


def _report_end(job: Job, returncode: int, tail: Sequence[str]) -> None:
    """Report the program's end. One that was asked to stop has not succeeded, whatever its exit code."""
    if returncode == 0 and not job.is_stopping():
        job.succeed()
        return
    name, said = "ExitCode", f"The program exited with code {returncode}"
    if returncode < 0:
        name, said = "Signal", f"The program was killed by {_signal_name(-returncode)}"
    if job.is_stopping():
        name, said = "Stopped", f"{said} after it was asked to stop"
    shown = "\n".join(cut_tail(list(tail)))
    job.fail(f"{said}\n{shown}" if shown else said, name=name)


def _report(send: Callable[[], None], job: Job) -> None:
    """Send; the program's own word may have come first, and its exit code counts whatever comes of this."""
    try:
        send()
        job.flush()
    except Superseded:
        job.discard()  # the program was stopped for it, or ended before it could be
    except ServerError as error:
        if error.status != _CONFLICT:
            print_stderr(f"the end could not be reported: {error}")
            job.discard()
    job.close()


def _close_output() -> None:
    """Let the readers of the program's output see its end, however long its report takes."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _leave_as(returncode: int) -> int:
    if returncode >= 0:
        return returncode
    number = -returncode
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program has left a core if it was to
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
    """Send the forwarded signals to ``handler``; return a descriptor that is readable after any, SIGCHLD too.

    A signal that is ignored stays so, here and in the program (``nohup``), except for SIGINT: a shell lets
    whatever it starts in the background ignore it, which nobody has asked for.
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
    """Return what to call between fork and exec: the program leads a group, and on Linux dies when we do.

    It has the default signals, even if a shell has started us in the background.
    """
    prctl = _prctl()
    parent = os.getpid()

    def prepare() -> None:
        os.setpgid(0, 0)
        for number in FROM_TERMINAL:
            signal.signal(number, signal.SIG_DFL)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before the kernel knew
                os._exit(WRAPPER_FAILED)

    return prepare


def _prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes
    except ImportError:  # a Python built without it
        return None
    prctl: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    return prctl
