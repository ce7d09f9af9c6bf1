# SPDX-License-Identifier: Apache-2.0
"""Looks at an action while its job runs: for what it reported, and for whether it must stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_asyncaction.exceptions import ServerError, Superseded
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.protocol.actions import StopReason, Verb
from airflow_asyncaction.protocol.lifecycle import Launched, Stop
from airflow_asyncaction.protocol.tasks import TaskCredentials
from airflow_asyncaction.retrying import is_transient
from airflow_asyncaction.runners.report_log import Shown

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_NO_PATIENCE = timedelta(0)
_LAST_LOOK_PATIENCE = timedelta(minutes=1)


class Follower:
    """A thread that follows one action until told to finish.

    Purpose: the job's reported logs and progress go into the task log, a job that must stop is stopped, and
    the server gets the secrets that this process has learned.
    It looks every ``interval``, at once where more is to be read. Looks that fail are tried again for ever:
    the server may be away for as long as the job runs.

    What it does not do: end the action. That is decided by the server; the task reads it when the job exits.

    :param on_stop: called when the job must stop; more than once
    :param on_orphaned: called instead when the worker is gone, if the job is not to be stopped then
    :param copies_logs: whether log lines that the job reports are to be written into the task log; the
        server's own always are
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
        self._shown = Shown(log, copies_logs=copies_logs, after_line=after_line)
        self._server_is_away = False
        self._thread = threading.Thread(target=self._run, name="asyncaction-follower", daemon=True)

    @property
    def last_line(self) -> int:
        """Number of the last reported line that was looked at."""
        return self._shown.last_line

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def launched(self, job: dict[str, Any]) -> None:
        """Let the server know that the job is up, soon."""
        self._launched = Launched(job)
        self._wake.set()

    def wait_until_done(self) -> None:
        """Block until the server says that the action is done (``completion="report"``)."""
        while not self._done.wait(timeout=1):
            pass

    def finish(self) -> None:
        """Copy what was reported last, and end the thread."""
        self._finishing.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._finishing.is_set():
            if not self._look():
                self._wake.wait(self._interval_seconds)
                self._wake.clear()
        while self._look(_LAST_LOOK_PATIENCE):
            pass

    def _look(self, patience: timedelta = _NO_PATIENCE) -> bool:
        """Look once; tell whether there is more to be read at once."""
        if os.getppid() == self._worker_pid:
            with suppress(ConnectionError):  # what is logged is read by the worker
                return self._read(patience)
        self._stop_orphan()
        return False

    def _read(self, patience: timedelta) -> bool:
        try:
            if self._launched is not None:
                self._tell_launched(self._launched)
                self._launched = None
            self._hook.share_secrets(self._credentials, patience=_NO_PATIENCE)
            view = self._hook.read(self._credentials, after_line=self._shown.last_line, patience=patience)
        except ServerError as error:
            if not self._server_is_away:
                self._log.warning("%s; the job goes on, and this task looks again", error)
            self._server_is_away = True
            return False
        self._server_is_away = False
        self._shown.show(view)
        if view.is_done:
            self._done.set()
        if view.is_done or view.verb is Verb.STOP:
            self._on_stop()
        return view.has_more_logs

    def _tell_launched(self, launched: Launched) -> None:
        """Tell that the job is up. If the server refuses its description, tell it without one.

        :raises ServerError: the server refuses, or is away
        """
        try:
            self._hook.tell(self._credentials, launched, patience=_NO_PATIENCE)
        except ServerError as error:
            if is_transient(error) or isinstance(error, Superseded) or not launched.job:
                raise
            self._log.warning("%s; the job's description is left out", error)
            self._hook.tell(self._credentials, Launched({}), patience=_NO_PATIENCE)

    def _stop_orphan(self) -> None:
        """Stop the job of a task whose worker was killed, unless another try is to adopt it.

        Nothing is logged: nobody reads it any more.
        """
        self.is_orphaned = True
        if self._on_orphaned is not None:
            self._on_orphaned()
            self._done.set()
            return
        try:
            with suppress(ServerError):  # the next attempt fences the action
                self._hook.tell(self._credentials, Stop(StopReason.KILLED), patience=_NO_PATIENCE)
        finally:
            self._on_stop()
            self._done.set()  # no end is waited for
