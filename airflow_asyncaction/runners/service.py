# SPDX-License-Identifier: Apache-2.0
"""Service runner: runs a Python callable in the task process, as a job that reports like any other."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from airflow_asyncaction.exceptions import AsyncActionError, ServerError
from airflow_asyncaction.hooks.known_secrets import current_masker, masked
from airflow_asyncaction.job import Job, use_job
from airflow_asyncaction.job.proxies import Proxies
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.reports import LogLine
from airflow_asyncaction.runners.base import OnLaunched
from airflow_asyncaction.runners.task_log import write_log_line

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_INTERRUPT = signal.SIGUSR1


class JobInterrupted(BaseException):
    """The callable did not return within stop_grace after it was asked to stop."""


class ServiceRunner:
    """Runs one callable in the calling thread.

    Purpose: like a program, a callable can report progress and logs, and be asked to stop.

    How it works: the callable receives a :class:`Job`, whose reports go to the API server over HTTP. When it
    must stop, ``job.is_stopping()`` becomes true. After the grace period :class:`JobInterrupted` is raised in
    it. A callable that returns after it was asked to stop has stopped, not succeeded.

    What it does not do: kill. A callable that is busy in C code notices neither request nor exception.

    :param call: called with the job; returns the result or an awaitable of it
    """

    name = "service"
    copies_reported_logs = False  # the runner writes them into the task log itself

    def __init__(self, *, call: Callable[[Job], Any], stop_grace: timedelta, log: Logger) -> None:
        self._call = call
        self._grace_seconds = stop_grace.total_seconds()
        self._log = log
        self._job: Job | None = None
        self._stop_requested = False
        self._is_echoing = False
        self._thread_id: int | None = None
        self._interrupt: threading.Timer | None = None
        self._exit: Exit | None = None
        self.returned: Any = None
        self.returned_json = False
        """Whether the returned value is JSON."""
        self.exception: Exception | SystemExit | None = None

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit:
        """Call the callable, report its result or exception, and return how it ended."""
        job = self._job = _MaskingJob(info, echo=self._echo, proxies=Proxies.of_worker(info.hook_url))
        if self._stop_requested:
            job.ask_to_stop()
        on_launched({"host": socket.gethostname(), "pid": os.getpid()})
        try:
            self._exit = self._call_job(job)
            self._report(job)
        finally:
            job.close()
        return self._exit

    def stop(self) -> None:
        """Ask the callable to stop, and interrupt it after the grace period if it is still running."""
        self._stop_requested = True
        if self._job is not None:
            self._job.ask_to_stop()
        if self._interrupt is None and self._thread_id is not None:
            self._interrupt = threading.Timer(self._grace_seconds, self._interrupt_now)
            self._interrupt.daemon = True
            self._interrupt.start()

    def wait(self) -> Exit | None:
        """Return how the call ended. It runs in the same thread, so it has ended by now."""
        return self._exit

    def release(self) -> None:
        """Do nothing: a call leaves no work running."""

    def _call_job(self, job: Job) -> Exit:
        try:
            with use_job(job), self._forwarded_logging(job), self._interruptible():
                self.returned = _await_result(self._call(job))
        except AirflowSkipException as error:
            self.exception = error
            return Exit(code=0, message=str(error) or type(error).__name__, is_skip=True)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the operator re-raises it
            self.exception = error
            return Exit(code=1, reason=type(error).__name__, message=str(error))
        except JobInterrupted as error:
            return Exit(reason=type(error).__name__, message=str(error))
        except BaseException as error:
            self._exit = Exit(reason=type(error).__name__, message=str(error))
            raise
        return Exit(code=0)

    def _report(self, job: Job) -> None:
        if self._exit is not None and self._exit.is_skip:
            return  # the exit marks the skip; there is no report for it
        try:
            if self.exception is not None:
                job.fail(self.exception)
            elif self._exit == Exit(code=0) and not job.is_stopping():  # otherwise it stopped half way
                self._report_result(job)
        except AsyncActionError as error:
            if isinstance(error, ServerError) and error.status == HTTPStatus.CONFLICT:
                self._log.info("The callable has already reported its end")
                return
            self._log.warning("The end could not be reported. The exit is reported instead: %s", error)

    def _report_result(self, job: Job) -> None:
        self.returned_json = True
        try:
            job.result(self.returned)
        except (TypeError, ValueError):
            self.returned_json = False
            self._log.info("The return value is not JSON: it is only pushed as an XCom")
            job.succeed()
        except ServerError as error:
            if error.status not in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.BAD_REQUEST):
                raise
            self._log.info("The return value cannot be reported, and is only pushed as an XCom: %s", error)
            job.succeed()

    def _echo(self, line: LogLine) -> None:
        self._is_echoing = True
        try:
            write_log_line(self._log, line)
        finally:
            self._is_echoing = False

    @contextmanager
    def _forwarded_logging(self, job: Job) -> Iterator[None]:
        """Send this thread's log records to the action's log too, except those of reported lines."""
        handler = _JobHandler(job)
        handler.addFilter(lambda _: not self._is_echoing)
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            yield
        finally:
            root.removeHandler(handler)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let the interrupt signal raise in this thread, if it is the main one: others receive no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(_INTERRUPT, _raise_interrupted)
        self._thread_id = threading.get_ident()
        try:
            if self._stop_requested:  # before the callable was called
                self.stop()
            yield
        finally:
            self._thread_id = None
            signal.signal(_INTERRUPT, previous)

    def _interrupt_now(self) -> None:
        if self._thread_id is not None:
            signal.pthread_kill(self._thread_id, _INTERRUPT)


def _raise_interrupted(*_: object) -> None:
    raise JobInterrupted(JobInterrupted.__doc__)


def _await_result(value: Any) -> Any:
    if inspect.isawaitable(value):
        return asyncio.run(_await(value))
    return value


async def _await(awaitable: Any) -> Any:
    return await awaitable


class _MaskingJob(Job):
    """Masks in reports what Airflow masks in this process. The XCom is the returned value, unmasked."""

    def log(self, text: str, level: str = "INFO", *, stream: str | None = None, echo: bool = True) -> None:
        super().log(masked(str(text)), level, stream=stream, echo=echo)

    def progress(self, percent: float, message: str | None = None) -> None:
        super().progress(percent, None if message is None else masked(str(message)))

    def result(self, value: Any) -> None:
        super().result(current_masker().json(value))

    def fail(self, error: str | BaseException, name: str | None = None) -> None:
        if isinstance(error, BaseException):
            name = name or type(error).__name__
        super().fail(masked(str(error)), None if name is None else masked(name))


class _JobHandler(logging.Handler):
    """Reports the records of its own thread. Those of the reporting threads would cause more reports."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job
        self._thread_id = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, with its traceback if there is one. It is already in the task log."""
        if record.thread != self._thread_id:
            return
        try:
            self._job.log(self.format(record), level=record.levelname, echo=False)
        except Exception:  # noqa: BLE001 - as logging requires of handlers
            self.handleError(record)
