# SPDX-License-Identifier: Apache-2.0
"""Reader of an action: a thread whose requests wait at the API server until the action changes."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.protocol.actions import Verb
from airflow_asyncaction.protocol.tasks import TaskCredentials, TaskView
from airflow_asyncaction.retrying import as_sentence
from airflow_asyncaction.runners.task_log import ReportLog

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

# At random, so that tasks which started together do not stay in step. Envoy gives up after 15 s by default.
_WAIT_SECONDS = (10.0, 14.0)
_SERVER_INTERVAL_SECONDS = 1.0


class OutageWarning:
    """Logs the first of several errors in a row."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._is_unavailable = False

    def add(self, error: ServerError) -> None:
        """Log an error, unless the request before failed as well."""
        if not self._is_unavailable:
            self._log.warning("%s The job continues, and this task keeps polling", as_sentence(str(error)))
        self._is_unavailable = True

    def end(self) -> None:
        """Log the next error: a request has succeeded."""
        self._is_unavailable = False


class ActionReader:
    """Thread that reads one action until :meth:`stop`.

    Purpose: write what the job reports to the task log, and pass on each state of the action.

    How it works: a request waits at the server for up to 14 s, until the action changes. Two requests
    start at least ``interval`` apart, unless there are more lines to read. So the action of a job that
    reports often is read every ``interval``, and so is any action if the server does not hold requests.
    Requests do not wait once the job must stop, nor if ``interval`` is under 1 s, since the server looks for
    changes once per second.

    What it does not do: end while a request waits. :meth:`stop` returns at once, and what the request then
    returns is ignored.

    :param on_view: called with each state of the action
    """

    def __init__(
        self,
        hook: TaskHook,
        credentials: TaskCredentials,
        log: Logger,
        report_log: ReportLog,
        *,
        interval: timedelta,
        on_view: Callable[[TaskView], None],
    ) -> None:
        self._hook = hook.clone()
        self._credentials = credentials
        self._report_log = report_log
        self._interval_seconds = interval.total_seconds()
        self._on_view = on_view
        self._outage = OutageWarning(log)
        self._worker_pid = os.getppid()
        self._version: str | None = None
        self._stopping = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="asyncaction-reader", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading. Once this returns, the thread writes nothing and passes nothing on."""
        with self._writing:
            self._stopping.set()

    def read_rest(self, hook: TaskHook, patience: timedelta) -> None:
        """Read what is left in the calling thread, after :meth:`stop`.

        :param hook: belongs to the calling thread
        :param patience: how long to retry each request
        """
        try:
            while self._write(hook.read(self._credentials, after_line=self._last_line, patience=patience)):
                pass
        except ServerError as error:
            self._outage.add(error)

    @property
    def _last_line(self) -> int:
        return self._report_log.last_line

    def _run(self) -> None:
        while not self._stopping.is_set():
            started_at = time.monotonic()
            try:
                view = self._request()
                self._outage.end()
                has_more = view is not None and self._take(view)
                pause_seconds = 0.0 if has_more else self._interval_seconds
                pause_seconds -= time.monotonic() - started_at
            except ServerError as error:
                if not self._stopping.is_set():
                    self._outage.add(error)
                pause_seconds = self._interval_seconds
            self._stopping.wait(max(0.0, pause_seconds))

    def _request(self) -> TaskView | None:
        """Return the action; ``None`` if it has not changed.

        :raises ServerError: the server refuses
        """
        if self._version is None:
            return self._hook.read(self._credentials, after_line=self._last_line)
        return self._hook.wait_for_change(
            self._credentials,
            after_line=self._last_line,
            version=self._version,
            wait_seconds=random.uniform(*_WAIT_SECONDS),  # noqa: S311 - not a secret
        )

    def _take(self, view: TaskView) -> bool:
        """Write and pass on what a request returned. Return whether there is more to read at once."""
        with self._writing:
            if self._stopping.is_set() or os.getppid() != self._worker_pid:
                return False
            may_wait = self._interval_seconds >= _SERVER_INTERVAL_SECONDS and not must_stop(view)
            self._version = view.version if may_wait else None
            return self._write(view)

    def _write(self, view: TaskView) -> bool:
        with suppress(ConnectionError):  # from logging, which writes to the worker
            self._report_log.write(view)
            self._on_view(view)
            return view.has_more_logs
        return False


def must_stop(view: TaskView) -> bool:
    """Return whether the job of an action must stop, if it still runs."""
    return view.is_done or view.verb is Verb.STOP
