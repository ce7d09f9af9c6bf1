# SPDX-License-Identifier: Apache-2.0
"""Poller: polls an action while its job runs, copies logs and progress, and stops the job if it must."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_asyncaction.exceptions import ServerError, Superseded
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.operators.reader import ActionReader, OutageWarning, must_stop
from airflow_asyncaction.protocol.actions import StopReason
from airflow_asyncaction.protocol.lifecycle import Launched, Stop
from airflow_asyncaction.protocol.tasks import TaskCredentials, TaskView
from airflow_asyncaction.retrying import as_sentence, is_transient
from airflow_asyncaction.runners.task_log import ReportLog

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_NO_PATIENCE = timedelta(0)
_LAST_READ_PATIENCE = timedelta(minutes=1)


class ActionPoller:
    """Follows one action in two threads until :meth:`finish`.

    Purpose: copy the job's reported logs and progress into the task log, stop a job that must stop, and share
    with the server the secrets that this process learns.

    How it works: an :class:`ActionReader` reads the action, and its requests may wait at the server. The
    other thread does every ``interval``, and at once after the launch, what must not wait for that: it checks
    that the worker exists, and reports. Failed requests are retried without a limit, since the server may be
    unavailable for as long as the job runs.

    What it does not do: end the action. The server decides how it ends, and the task reads that when the job
    has exited.

    :param copies_logs: whether to copy the job's reported log lines; the server's own are always copied
    :param on_stop: called when the job must stop; may be called more than once
    :param on_orphaned: called instead of ``on_stop`` when the worker is gone, for a job that may outlive it
    :param after_line: the number of the last reported line that the task log already has
    """

    def __init__(
        self,
        hook: TaskHook,
        credentials: TaskCredentials,
        log: Logger,
        *,
        interval: timedelta,
        copies_logs: bool,
        on_stop: Callable[[], None],
        on_orphaned: Callable[[], None] | None = None,
        after_line: int = 0,
    ) -> None:
        self._hook = hook.clone()
        self._credentials = credentials
        self._log = log
        self._interval_seconds = interval.total_seconds()
        self._on_stop = on_stop
        self._on_orphaned = on_orphaned
        self.is_orphaned = False
        self._worker_pid = os.getppid()
        self._launched: Launched | None = None
        self._wake = threading.Event()
        self._finishing = threading.Event()
        self._done = threading.Event()
        self._outage = OutageWarning(log)
        self._report_log = ReportLog(log, copies_logs=copies_logs, after_line=after_line)
        self._reader = ActionReader(
            hook, credentials, log, self._report_log, interval=interval, on_view=self._follow
        )
        self._thread = threading.Thread(target=self._run, name="asyncaction-poller", daemon=True)

    @property
    def last_line(self) -> int:
        """Number of the last reported line that was read."""
        return self._report_log.last_line

    def start(self) -> None:
        """Start the threads."""
        self._reader.start()
        self._thread.start()

    def report_launch(self, job: Mapping[str, Any]) -> None:
        """Report that the job was launched, from the thread."""
        self._launched = Launched(dict(job))
        self._wake.set()

    def wait_until_done(self) -> None:
        """Block until the server says that the action is done (``completion="report"``)."""
        while not self._done.wait(timeout=1):
            pass

    def finish(self) -> None:
        """Read the last logs, and end the threads. A request that still waits at the server is abandoned."""
        self._finishing.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._finishing.is_set():
            self._tend()
            self._wake.wait(self._interval_seconds)
            self._wake.clear()
        self._reader.stop()
        if self._tend():
            self._reader.read_rest(self._hook, _LAST_READ_PATIENCE)

    def _tend(self) -> bool:
        """Report what the server must know. Return whether the worker still exists."""
        if os.getppid() != self._worker_pid:
            self._handle_lost_worker()
            return False
        with suppress(ConnectionError):  # from logging, which writes to the worker
            try:
                if self._launched is not None:
                    self._report_launched(self._launched)
                    self._launched = None
                self._hook.share_secrets(self._credentials, patience=_NO_PATIENCE)
                self._outage.end()
            except ServerError as error:
                self._outage.add(error)
        return True

    def _follow(self, view: TaskView) -> None:
        """Do what a state of the action requires."""
        if view.is_done:
            self._done.set()
        if must_stop(view):
            self._on_stop()

    def _report_launched(self, launched: Launched) -> None:
        """Report that the job was launched. If the server refuses the job's description, report without it.

        :raises ServerError: the server refuses, or is unavailable
        """
        try:
            self._hook.send_message(self._credentials, launched, patience=_NO_PATIENCE)
        except ServerError as error:
            if is_transient(error) or isinstance(error, Superseded) or not launched.job:
                raise
            self._log.warning("%s Reporting the launch without its description", as_sentence(str(error)))
            self._hook.send_message(self._credentials, Launched({}), patience=_NO_PATIENCE)

    def _handle_lost_worker(self) -> None:
        """Stop the job of a task whose worker was killed, unless the next attempt adopts it.

        It logs nothing, since nothing would read it.
        """
        self.is_orphaned = True
        if self._on_orphaned is not None:
            self._on_orphaned()
            self._done.set()
            return
        try:
            with suppress(ServerError):  # the next attempt supersedes the action anyway
                self._hook.send_message(self._credentials, Stop(StopReason.KILLED), patience=_NO_PATIENCE)
        finally:
            self._on_stop()
            self._done.set()  # nobody needs the end any more
