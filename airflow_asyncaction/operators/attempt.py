# SPDX-License-Identifier: Apache-2.0
"""Attempt of a task: registers its action, runs its job, and waits until the action is done."""

from __future__ import annotations

import hashlib
import secrets
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.log import mask_secret

from airflow_asyncaction.exceptions import ServerError, Superseded
from airflow_asyncaction.hooks.in_process import note_registered
from airflow_asyncaction.hooks.task import PATIENCE, Registration, TaskHook
from airflow_asyncaction.operators.poller import ActionPoller
from airflow_asyncaction.protocol.actions import StopReason
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Stop
from airflow_asyncaction.protocol.runner_messages import RunnerMessage
from airflow_asyncaction.protocol.tasks import COMMITMENT_KEY, ActionSpec, TaskView
from airflow_asyncaction.retrying import is_outage
from airflow_asyncaction.runners.base import AdoptableRunner, Runner
from airflow_asyncaction.runners.skip_codes import mark_skip

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_COMMITMENT_RETENTION = timedelta(hours=1)
# Airflow kills a task process 5 s after it sends SIGTERM.
_KILLED_TASK_SECONDS = 3.5
_REPORT_PATIENCE = timedelta(seconds=1)
_REPORT_TIMEOUT_SECONDS = 2.0


def register(
    hook: TaskHook, context: Mapping[str, Any], spec: ActionSpec, *, resumes: str | None = None
) -> Registration:
    """Register the action of this process's task instance. The hook then sends requests for that instance.

    :param resumes: the id of the action with which the task was deferred
    """
    from opentelemetry.propagate import inject  # only when a task runs: Dag files do not need it

    ti_id = str(context["ti"].id)
    nonce = secrets.token_hex(32)
    digest = hashlib.sha256(nonce.encode()).hexdigest()
    context["task_state_store"].set(COMMITMENT_KEY, digest, retention=_COMMITMENT_RETENTION)
    carrier: dict[str, str] = {}
    inject(carrier)
    traced = replace(spec, traceparent=carrier.get("traceparent"))
    registration = hook.register(ti_id, nonce, traced, resumes=resumes)
    hook.ti_id = ti_id
    note_registered(registration.info.job_id)
    for signer in (registration.info, registration.credentials):
        mask_secret(signer.secret_key)  # in all logs, rendered fields and the UI
    return registration


class _Orphaned(SystemExit):
    """Raised when the worker is gone: nothing reads the exit code."""


class Attempt:
    """Runs the job of a registered action.

    Purpose: run the job and wait for it, and stop it when the task is killed or times out.

    How it works: the runner occupies the calling thread while an :class:`ActionPoller` polls the action in
    another. :meth:`kill` is for signal handlers: it only starts a thread, and the runner keeps reading the
    job's output. Before the job is stopped, the server is told why. Otherwise, an ERROR
    that the job then reports would count as its own failure.

    What it does not do: decide how the action ends. It reports the job's exit to the server, which decides.

    :param has_timeout: whether Airflow's ``execution_timeout`` may interrupt :meth:`run`
    :param skip_codes: exit codes that skip the task
    """

    def __init__(
        self,
        hook: TaskHook,
        registration: Registration,
        runner: Runner,
        log: Logger,
        *,
        poll_interval: timedelta,
        after_line: int = 0,
        has_timeout: bool = False,
        skip_codes: Collection[int] = (),
    ) -> None:
        self._hook = hook
        self._skip_codes = skip_codes
        self._info = registration.info
        self._credentials = registration.credentials
        self._runner = runner
        self._log = log
        self._ended = threading.Event()
        self._is_killed = False
        self._has_timeout = has_timeout
        self._is_timeout_reported = False
        self._poller = ActionPoller(
            hook,
            self._credentials,
            log,
            interval=poll_interval,
            copies_logs=runner.copies_reported_logs,
            on_stop=runner.stop,
            on_orphaned=runner.detach if isinstance(runner, AdoptableRunner) else None,
            after_line=after_line,
        )

    @property
    def last_line(self) -> int:
        """Number of the last reported line that is in the task log."""
        return self._poller.last_line

    def run(self) -> TaskView | None:
        """Run the job until the action is done, and return the action.

        Return ``None`` if the runner stopped watching a job that is still running. If Airflow raises an
        exception here, for example on ``execution_timeout``, the job is stopped before the exception
        propagates, unless it is left to the next attempt.

        :raises SystemExit: the worker is gone, and the next attempt adopts the job
        """
        view: TaskView | None = None
        self._poller.start()
        with self._job_stopped_on_error(), self._report_timeout_first():
            self._hook.share_secrets(self._credentials)  # connections read for the inputs may have added some
            exit_ = self._runner.run(self._info, self._poller.report_launch)
            view = self._report_exit(exit_)
        if view is not None:
            self._runner.release()
        return view

    @contextmanager
    def _job_stopped_on_error(self) -> Iterator[None]:
        """Stop the job if an exception interrupts its run, unless another process adopts it."""
        try:
            yield
            self._ended.set()
        except (Superseded, _Orphaned):
            self._ended.set()  # another process adopts the job: do not stop it
            raise
        except BaseException as error:
            is_timeout = isinstance(error, AirflowTaskTimeout)
            self._stop_job(StopReason.EXECUTION_TIMEOUT if is_timeout else StopReason.KILLED)
            raise
        finally:
            self._poller.finish()

    def _report_exit(self, exit_: Exit | None) -> TaskView | None:
        """Report the job's exit, wait until the action is done, and return it."""
        if self._poller.is_orphaned and exit_ is None:
            raise _Orphaned("The worker of this task is gone")
        if self._is_killed:
            self._report_or_log(Stop(StopReason.KILLED))  # again: the first report had little time
        if exit_ is None:
            return None
        view = self._hook.send_message(self._credentials, mark_skip(exit_, self._skip_codes))
        if not view.is_done:
            self._poller.wait_until_done()
            view = self._hook.read(self._credentials, patience=PATIENCE)
        return view

    def kill(self) -> None:
        """Begin to stop the job, because this process is about to be killed. Return at once."""
        if not self._is_killed and not self._ended.is_set():
            self._is_killed = True
            threading.Thread(target=self._kill, name="asyncaction-kill").start()

    def _kill(self) -> None:
        if self._leaves_job(self._report_and_stop(StopReason.KILLED)):
            return
        if not self._ended.wait(_KILLED_TASK_SECONDS):
            self._report_or_log(Abandon())

    def _stop_job(self, reason: StopReason) -> None:
        """Stop the job of an interrupted task, unless it has ended, and report its exit."""
        error = None if self._is_timeout_reported else self._report_and_stop(reason)
        if self._leaves_job(error) and isinstance(self._runner, AdoptableRunner):
            self._runner.detach()
            self._ended.set()
            return
        try:
            exit_ = self._runner.wait()
            if exit_ is not None:
                if error is not None:
                    self._report_or_log(Stop(reason))  # else the job's signal would look unexpected
                self._report_or_log(exit_)
        finally:
            self._report_or_log(Abandon())  # ignored if the exit has ended the action
            self._ended.set()

    @contextmanager
    def _report_timeout_first(self) -> Iterator[None]:
        """Report ``execution_timeout`` before Airflow's signal handler raises AirflowTaskTimeout.

        The exception is raised inside the task's callable, which may still report while it unwinds.
        """
        raise_timeout = signal.getsignal(signal.SIGALRM)
        is_raised_here = self._has_timeout and threading.current_thread() is threading.main_thread()
        if not is_raised_here or not callable(raise_timeout):
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            # In another thread, because this one may hold any lock.
            reporting = threading.Thread(target=self._report_timeout, name="asyncaction-timeout")
            reporting.start()
            reporting.join(_REPORT_TIMEOUT_SECONDS)
            raise_timeout(number, frame)

        signal.signal(signal.SIGALRM, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGALRM, raise_timeout)

    def _report_timeout(self) -> None:
        self._is_timeout_reported = self._report_and_stop(StopReason.EXECUTION_TIMEOUT) is None

    def _report_and_stop(self, reason: StopReason) -> ServerError | None:
        """Report why the job must stop, then stop the job. Return the server's error, if any.

        A job that is left to the next attempt is not stopped.
        """
        leaves_job = isinstance(self._runner, AdoptableRunner)
        try:
            error = self._report_or_log(Stop(reason))
            leaves_job = self._leaves_job(error)
        finally:
            if not leaves_job:
                self._runner.stop()
        return error

    def _leaves_job(self, error: ServerError | None) -> bool:
        """Return whether a job that should stop is left running, because it outlives this process.

        Either the server says that the next attempt has adopted the job, or the server is unavailable. In the
        latter case the pod sweep ends the job if nothing watches it. If the server does not know the action,
        nothing adopts its job.
        """
        if error is None or not isinstance(self._runner, AdoptableRunner):
            return False
        return isinstance(error, Superseded) or is_outage(error)

    def _report_or_log(self, message: RunnerMessage) -> ServerError | None:
        """Send a message to the server. Log and return its error, if any."""
        try:
            self._hook.clone().send_message(self._credentials, message, patience=_REPORT_PATIENCE)
        except ServerError as error:
            self._log.warning("%s", error)
            return error
        return None
