# SPDX-License-Identifier: Apache-2.0
"""One try of a task: its action is registered, its job run by a runner, its end read."""

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
from airflow_asyncaction.operators.follower import Follower
from airflow_asyncaction.protocol.actions import StopReason
from airflow_asyncaction.protocol.lifecycle import Abandon, Stop
from airflow_asyncaction.protocol.tasks import COMMITMENT_KEY, ActionSpec, TaskView, Word
from airflow_asyncaction.retrying import is_outage
from airflow_asyncaction.runners.base import AdoptableRunner, Runner
from airflow_asyncaction.runners.skipping import skipping

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_COMMITMENT_RETENTION = timedelta(hours=1)
# Airflow kills a task process 5 s after it told it to end.
_KILLED_TASK_SECONDS = 3.5
_TELL_PATIENCE = timedelta(seconds=1)
_TELL_SECONDS = 2.0


def register(
    hook: TaskHook, context: Mapping[str, Any], spec: ActionSpec, *, resumes: str | None = None
) -> Registration:
    """Register the action of the task instance that this process runs: the hook speaks for it then.

    :param resumes: the action that the task was deferred with
    """
    ti_id = str(context["ti"].id)
    nonce = secrets.token_hex(32)
    digest = hashlib.sha256(nonce.encode()).hexdigest()
    context["task_state_store"].set(COMMITMENT_KEY, digest, retention=_COMMITMENT_RETENTION)
    traced = replace(spec, traceparent=_traceparent())
    registration = hook.register(ti_id, nonce, traced, resumes=resumes)
    hook.ti_id = ti_id
    note_registered(registration.info.job_id)
    for signer in (registration.info, registration.credentials):
        mask_secret(signer.secret_key)  # wherever else it might be shown
    return registration


def _traceparent() -> str | None:
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent")


class _Orphaned(SystemExit):
    """The worker is gone. Nobody hears how this process ends."""


class Attempt:
    """Carries a registered action out.

    Purpose: the job runs in (or under) this process; the action's end becomes the task's.

    How it works: the runner occupies the calling thread; a :class:`Follower` looks at the action meanwhile.
    :meth:`kill` is for signal handlers: it only starts a thread, so that the runner goes on reading output.
    The server learns why the job is to stop before the job does. Otherwise, a job that reports ERROR at once
    would seem to have failed by itself.

    What it does not do: decide. It tells the server how the job ended, and reads what that means.

    :param has_timeout: whether Airflow's ``execution_timeout`` may interrupt :meth:`carry_out`
    :param skips: exit codes by which the job skips itself
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
        skips: Collection[int] = (),
    ) -> None:
        self._hook = hook
        self._skips = skips
        self._info = registration.info
        self._credentials = registration.credentials
        self._runner = runner
        self._log = log
        self._ended = threading.Event()
        self._killing = False
        self._has_timeout = has_timeout
        self._is_timeout_told = False
        self._follower = Follower(
            hook,
            self._credentials,
            log,
            interval=poll_interval,
            copies_logs=runner.copies_reported_logs,
            on_stop=runner.stop,
            on_orphaned=runner.orphaned if isinstance(runner, AdoptableRunner) else None,
            after_line=after_line,
        )

    @property
    def last_line(self) -> int:
        """Number of the last reported line that is in the task log."""
        return self._follower.last_line

    def carry_out(self) -> TaskView | None:
        """Run the job to the action's end, and return it; ``None`` if the runner has let go of the job.

        An exception that Airflow raises into this (``execution_timeout``) ends the job before it goes on.

        :raises SystemExit: the worker is gone, and the job is left to the next try
        """
        self._follower.start()
        try:
            with self._timeout_told_first():
                view = self._run()
            self._ended.set()
        except (Superseded, _Orphaned):
            self._ended.set()  # another process has adopted the job, or will: it is not ours to stop
            raise
        except BaseException as error:
            is_timeout = isinstance(error, AirflowTaskTimeout)
            self._end(StopReason.EXECUTION_TIMEOUT if is_timeout else StopReason.KILLED)
            raise
        finally:
            self._follower.finish()
        if view is not None:
            self._runner.release()
        return view

    def _run(self) -> TaskView | None:
        self._hook.share_secrets(self._credentials)  # such as those of inputs: the job may report at once
        exit_ = self._runner.run(self._info, self._on_launched)
        if self._follower.is_orphaned and exit_ is None:
            raise _Orphaned("The worker of this task is gone")
        if self._killing:
            self._tell_or_log(Stop(StopReason.KILLED))  # again: there was little time for the first
        if exit_ is None:
            return None
        view = self._hook.tell(self._credentials, skipping(exit_, self._skips))
        if not view.is_done:
            self._follower.wait_until_done()
            view = self._hook.read(self._credentials, patience=PATIENCE)
        return view

    def kill(self) -> None:
        """Begin to end the job since this process is going to be killed. Returns at once."""
        if not self._killing and not self._ended.is_set():
            self._killing = True
            threading.Thread(target=self._kill, name="asyncaction-kill").start()

    def _kill(self) -> None:
        if self._leaves_job(self._tell_and_stop(StopReason.KILLED)):
            return
        if not self._ended.wait(_KILLED_TASK_SECONDS):
            self._tell_or_log(Abandon())

    def _end(self, reason: StopReason) -> None:
        """End the job when its task is interrupted by an exception, as far as it has not ended."""
        refusal = None if self._is_timeout_told else self._tell_and_stop(reason)
        if self._leaves_job(refusal) and isinstance(self._runner, AdoptableRunner):
            self._runner.orphaned()
            self._ended.set()
            return
        try:
            exit_ = self._runner.wait()
            if exit_ is not None:
                if refusal is not None:
                    self._tell_or_log(Stop(reason))  # or the signal that ended the job seems not to be ours
                self._tell_or_log(exit_)
        finally:
            self._tell_or_log(Abandon())  # means nothing to an action that the exit has ended
            self._ended.set()

    @contextmanager
    def _timeout_told_first(self) -> Iterator[None]:
        """Tell the server of ``execution_timeout`` before Airflow's signal handler raises it.

        It is raised in the callable of a task, which may report while it unwinds.
        """
        raise_timeout = signal.getsignal(signal.SIGALRM)
        is_raised_here = self._has_timeout and threading.current_thread() is threading.main_thread()
        if not is_raised_here or not callable(raise_timeout):
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            # Another thread: this one may hold any lock.
            telling = threading.Thread(target=self._tell_timeout, name="asyncaction-timeout")
            telling.start()
            telling.join(_TELL_SECONDS)
            raise_timeout(number, frame)

        signal.signal(signal.SIGALRM, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGALRM, raise_timeout)

    def _tell_timeout(self) -> None:
        self._is_timeout_told = self._tell_and_stop(StopReason.EXECUTION_TIMEOUT) is None

    def _tell_and_stop(self, reason: StopReason) -> ServerError | None:
        """Tell the server why the job is to stop, then the job; return why the server did not take it.

        A job that may be left to the next try is then not stopped.
        """
        leaves_job = isinstance(self._runner, AdoptableRunner)
        try:
            refusal = self._tell_or_log(Stop(reason))
            leaves_job = self._leaves_job(refusal)
        finally:
            if not leaves_job:
                self._runner.stop()
        return refusal

    def _leaves_job(self, refusal: ServerError | None) -> bool:
        """Tell whether the job goes on though it was to be stopped: it can outlive this process.

        It is the next try's, as the server says; or who can say, while the server is away: then the sweep
        ends it, if nobody watches it. A server that knows the action no more has nobody who adopts its job.
        """
        if refusal is None or not isinstance(self._runner, AdoptableRunner):
            return False
        return isinstance(refusal, Superseded) or is_outage(refusal)

    def _tell_or_log(self, word: Word) -> ServerError | None:
        """Tell the server, and return why it did not take it."""
        try:
            self._hook.clone().tell(self._credentials, word, patience=_TELL_PATIENCE)
        except ServerError as error:
            self._log.warning("%s", error)
            return error
        return None

    def _on_launched(self, job: Mapping[str, Any]) -> None:
        self._follower.launched(dict(job))
