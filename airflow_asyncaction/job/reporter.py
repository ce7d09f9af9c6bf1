# SPDX-License-Identifier: Apache-2.0
"""Reporter: sends the reports of a job in order, in a background thread and at the end of the job."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from airflow_asyncaction.exceptions import AsyncActionError, ServerError, ServerUnreachable, Superseded
from airflow_asyncaction.job.outgoing_reports import LogQueue, OutgoingReport, encode_report
from airflow_asyncaction.job.stderr import print_stderr
from airflow_asyncaction.job.transport import Request, ServerKeepsFailing, Transport
from airflow_asyncaction.protocol.compat import keyword_dataclass
from airflow_asyncaction.protocol.reports import LogLine

_SUSPICIOUS_SERVER_ERRORS = 6  # in a row; fits into the default heartbeat interval with the default backoff
_SHORTEST_INTERVAL_SECONDS = 0.01


@keyword_dataclass
class Timing:
    """Intervals and timeouts of a job's requests.

    :param heartbeat_seconds: send a heartbeat this long after the last report
    :param flush_seconds: how long log lines and progress are collected before they are sent
    :param report_patience_seconds: how long to resend the terminal report, and requests the job waits for
    :param exit_patience_seconds: how long to resend the last log lines of a job that ends without a terminal
        report
    :param timeout_seconds: for connecting, and for each read from the server
    """

    heartbeat_seconds: float = 10.0
    flush_seconds: float = 1.0
    report_patience_seconds: float = 330.0
    exit_patience_seconds: float = 30.0
    timeout_seconds: float = 10.0


class Reporter:
    """Sends the reports of a job.

    Purpose: deliver reports in order, even if the server is unreachable for a while.

    How it works: log lines and progress are collected, and a thread sends them as a report about every
    second. A report that cannot be delivered is resent before any other. :meth:`end` and :meth:`flush` make
    the thread release the connection, and continue in the calling thread. Signal handlers may call all
    methods except :meth:`close`, since all locks are re-entrant.

    After a fork, the child starts with an empty queue: the parent sends what was queued, and the heartbeats.

    What it does not do: raise in the background. If the server refuses a report there, the first such error
    is printed to stderr.
    """

    def __init__(self, transport: Transport, *, agent: Mapping[str, Any], timing: Timing) -> None:
        self._transport = transport
        self._timing = timing
        self._first_fields: dict[str, Any] = {"status": "RUNNING", "agent": dict(agent)}
        self._owner_pid = os.getpid()
        self.is_stopping = False
        self._has_ended = False
        self._superseded: Superseded | None = None
        self._has_warned = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._sending = threading.RLock()
        self._starting = threading.RLock()
        self._waiting_callers: list[None] = []  # its append and pop are atomic
        self._log_queue = LogQueue()
        self._woken = False
        self._details: dict[str, Any] | None = None
        self._own_details: dict[str, Any] = {}
        self._ending: Mapping[str, Any] | None = None
        self._unsent: OutgoingReport | None = None
        self._sent_at = time.monotonic()

    def _after_fork(self) -> None:
        """Start with an empty queue in a newly forked child process."""
        if self._pid != os.getpid():
            self._transport.close()
            self._first_fields = {}
            self._reset()

    @property
    def is_owner(self) -> bool:
        """Whether this process opened the job, and is not a fork of that process."""
        return os.getpid() == self._owner_pid

    @property
    def has_reported_end(self) -> bool:
        """Whether the end of the job was reported, or is queued."""
        return self._has_ended or self._ending is not None

    def start(self) -> None:
        """Start the background thread if it is not running."""
        self._after_fork()
        with self._starting:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="asyncaction-job", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is shutting down: the atexit handler sends what is queued
                self._thread = None
            atexit.unregister(self.close)
            atexit.register(self.close)

    def add(self, line: LogLine) -> None:
        """Queue a log line."""
        self.start()
        self._log_queue.add(line)
        if not self._woken and self._log_queue.is_full:
            self._wake_thread()

    def set_details(self, details: dict[str, Any], *, is_urgent: bool) -> None:
        """Queue status details, in place of older ones.

        :param is_urgent: whether to send them immediately
        """
        self.start()
        self._details = self._own_details = details
        if is_urgent:
            self._wake_thread()

    def show_transfer(self, details: dict[str, Any]) -> None:
        """Show status details of a file transfer in place of the job's own until it ends."""
        self.start()
        self._details = details

    def end_transfer(self) -> None:
        """Show the job's own status details again."""
        self._details = self._own_details

    def end(self, fields: Mapping[str, Any]) -> None:
        """Send the terminal report after all queued ones. If that fails, :meth:`flush` resends it.

        :raises ServerError: it was refused or could not be delivered
        """
        self._after_fork()
        self._ending = dict(fields)
        self._drain(self._timing.report_patience_seconds)

    def flush(self, patience_seconds: float | None = None) -> None:
        """Send all queued reports.

        :raises ServerError: a report was refused or could not be delivered
        """
        self._after_fork()
        patience = self._timing.exit_patience_seconds if patience_seconds is None else patience_seconds
        self._drain(patience)

    def call(self, request: Request) -> dict[str, Any]:
        """Send a request that is not a report, and return the response.

        :raises ServerError: it was refused or could not be delivered
        """
        self._after_fork()
        with self._take_connection():
            return self._transport.send(request, patience_seconds=self._timing.report_patience_seconds)

    def discard(self) -> None:
        """Discard all queued reports."""
        self._after_fork()
        with self._take_connection():
            self._log_queue = LogQueue()
            self._first_fields, self._details, self._ending, self._unsent = {}, None, None, None

    def close(self) -> None:
        """Flush the queue and stop the thread. Never raises: errors are printed to stderr."""
        self._after_fork()
        try:
            self.flush()
        except AsyncActionError as error:
            self._warn_once(error)
        thread, self._thread = self._thread, None
        if thread is not None:
            self._wake_thread()
            thread.join(self._timing.timeout_seconds)
        with self._sending:
            self._transport.close()
        atexit.unregister(self.close)

    def _wake_thread(self) -> None:
        self._woken = True
        self._wake.put(None)

    @contextlib.contextmanager
    def _take_connection(self) -> Iterator[None]:
        """Take over the connection, and make the background thread stop waiting for an unreachable server."""
        self._waiting_callers.append(None)
        try:
            with self._sending:
                yield
        finally:
            self._waiting_callers.pop()

    def _run(self) -> None:
        interval_seconds = max(
            _SHORTEST_INTERVAL_SECONDS, min(self._timing.flush_seconds, self._timing.heartbeat_seconds)
        )
        while self._thread is threading.current_thread():
            self._send_due()
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=interval_seconds)
            self._woken = False

    def _send_due(self) -> None:
        """Send a queued report, or a heartbeat if one is due. Continue while a full report is queued."""
        with self._sending:
            while not self._waiting_callers:
                report = self._next()
                if report is None:
                    return
                try:
                    self._deliver_or_skip(report, self._timing.heartbeat_seconds, in_background=True)
                except ServerUnreachable:
                    return
                except ServerError as error:
                    self._warn_once(error)
                if not self._log_queue.is_full:
                    return

    def _drain(self, patience_seconds: float) -> None:
        deadline = time.monotonic() + patience_seconds
        with self._take_connection():
            terminal = self._ending
            while (report := self._next(terminal, is_flush=True)) is not None:
                is_end = terminal is not None and report.terminal is terminal
                try:
                    if self._deliver_until(deadline, report) and is_end:
                        self._ending, self._has_ended = None, True
                        return
                except ServerUnreachable:
                    raise
                except ServerError as error:
                    if is_end:
                        self._log_queue.put_back(report.lines)  # only the end was refused
                    if is_end or isinstance(error, Superseded):
                        self._ending = None
                        raise
                    self._warn_once(error)

    def _next(
        self, terminal: Mapping[str, Any] | None = None, *, is_flush: bool = False
    ) -> OutgoingReport | None:
        """Return the next report: the one that could not be delivered, or a new one.

        The terminal report is sent once all queued lines fit into it.
        """
        if self._superseded is not None:
            if is_flush and (terminal is not None or self._log_queue):
                raise self._superseded
            return None
        if self._unsent is not None:
            return self._unsent
        fields = dict(self._first_fields)
        details, self._details = self._details, None
        if details is not None:
            fields["statusDetails"] = details
        ending = {**fields, **(terminal or {})}
        lines = self._log_queue.take(reserved_bytes=len(encode_report(ending)) if terminal else 0)
        if terminal is not None and self._log_queue:  # not all lines fit into it
            lines, terminal = lines or self._log_queue.take(), None
        if terminal is not None:
            fields = ending
        if not fields and not lines and (is_flush or not self._is_heartbeat_due()):
            return None
        self._first_fields = {}
        return OutgoingReport.of(fields, lines, terminal)

    def _is_heartbeat_due(self) -> bool:
        waited = time.monotonic() - self._sent_at
        return waited >= self._timing.heartbeat_seconds and self.is_owner and not self._has_ended

    def _deliver_until(self, deadline: float, report: OutgoingReport) -> bool:
        """Send a report like :meth:`_deliver_or_skip` until a monotonic time.

        That method gives up early after several server errors. It is then called again with twice as many
        allowed errors, so that the backoff of the transport keeps the intervals long.
        """
        max_server_errors = _SUSPICIOUS_SERVER_ERRORS
        while True:
            try:
                remaining = max(0.0, deadline - time.monotonic())
                return self._deliver_or_skip(report, remaining, max_server_errors=max_server_errors)
            except ServerUnreachable:
                if time.monotonic() >= deadline:
                    raise
                max_server_errors *= 2

    def _deliver_or_skip(
        self,
        report: OutgoingReport,
        patience_seconds: float,
        *,
        max_server_errors: int = _SUSPICIOUS_SERVER_ERRORS,
        in_background: bool = False,
    ) -> bool:
        """Send a report. Skip it if the server fails to process only this one, so that others get through.

        :returns: ``False`` if the report was skipped or has to be split
        :raises ServerKeepsFailing: the server also fails to process a heartbeat
        :raises ServerUnreachable: the patience expired; or there was no response to this report, although the
            server has just responded to a heartbeat
        """
        limit = max_server_errors if report.can_be_skipped and self.is_owner else None
        try:
            return self._deliver(
                report, patience_seconds, max_server_errors=limit, in_background=in_background
            )
        except ServerKeepsFailing:
            if not self._accepts_heartbeat(report):
                raise
        try:
            return self._deliver(report, 0.0, max_server_errors=1)
        except ServerKeepsFailing as error:
            self._unsent = None
            if report.lines:
                self._log_queue.count_dropped(report.lines)
                self._restore(report)
            self._warn_once(error)
            return False

    def _accepts_heartbeat(self, unsent: OutgoingReport) -> bool:
        try:
            return self._deliver(OutgoingReport.of({}, (), None), 0.0)
        except ServerUnreachable:
            return False
        finally:
            self._unsent = unsent

    def _deliver(
        self,
        report: OutgoingReport,
        patience_seconds: float,
        *,
        max_server_errors: int | None = None,
        in_background: bool = False,
    ) -> bool:
        """Send a report. Return ``False`` if it was too large and has to be split."""
        self._unsent = None if report.is_heartbeat else report
        try:
            response = self._transport.send(
                report.request,
                patience_seconds=patience_seconds,
                max_server_errors=max_server_errors,
                should_give_up=lambda: in_background and bool(self._waiting_callers),
            )
        except ServerUnreachable:
            raise
        except Superseded as error:
            self._unsent, self._superseded, self.is_stopping = None, error, True
            raise
        except ServerError as error:
            self._unsent = None
            if error.status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE or not report.lines:
                raise
            self._split(report)
            return False
        finally:
            self._sent_at = time.monotonic()
        self._unsent = None
        self.is_stopping = self.is_stopping or response.get("action") == "STOP"
        return True

    def _split(self, report: OutgoingReport) -> None:
        """Requeue the lines of a report that was too large. A single line that is too large is dropped."""
        if len(report.lines) > 1:
            self._log_queue.halve_reports()
            self._log_queue.put_back(report.lines)
        self._restore(report)

    def _restore(self, report: OutgoingReport) -> None:
        """Put the fields of a skipped report into the next one, except for log lines and the end."""
        if "agent" in report.fields:
            self._first_fields = {"status": "RUNNING", "agent": report.fields["agent"]}
        if self._details is None:
            self._details = report.fields.get("statusDetails")

    def _warn_once(self, error: AsyncActionError) -> None:
        if not self._has_warned:
            self._has_warned = True
            print_stderr(f"A report was lost: {error}")
