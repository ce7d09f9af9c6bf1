# SPDX-License-Identifier: Apache-2.0
"""Sends what a job says in the order it was said: by a background thread, and at once at the end."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_asyncaction.exceptions import AsyncActionError, ServerError, ServerUnreachable, Superseded
from airflow_asyncaction.job.log_queue import LogQueue
from airflow_asyncaction.job.outgoing_report import OutgoingReport, encode_report, heartbeat
from airflow_asyncaction.job.stderr import print_stderr
from airflow_asyncaction.job.timing import Timing
from airflow_asyncaction.job.transport import Request, ServerKeepsFailing, Transport
from airflow_asyncaction.protocol.reports import LogLine

_TOO_LARGE = 413
_SUSPICIOUS_SERVER_ERRORS = 6  # in a row; with the default backoff within the default heartbeat interval
_SHORTEST_NAP_SECONDS = 0.01


class Reporter:
    """Purpose: a job's word reaches the server, in order, whatever happens to the server meanwhile.

    How it works: lines and progress gather; the thread composes a report of them about every second. A report
    that finds no server stays the next to be sent. Who ends or flushes the job hurries the thread off the
    connection and goes on from there. Signal handlers may call everything but :meth:`close`: there are only
    re-entrant locks.

    After a fork the child starts anew: what waited is its parent's to send, and heartbeats are too.

    What it does not do: it never raises in the background; what is refused there is said on stderr, once.
    """

    def __init__(self, transport: Transport, *, agent: Mapping[str, Any], timing: Timing) -> None:
        self._transport = transport
        self._timing = timing
        self._first: dict[str, Any] = {"status": "RUNNING", "agent": dict(agent)}
        self._owner_pid = os.getpid()
        self.is_stopping = False
        self._has_ended = False
        self._superseded: Superseded | None = None
        self._complained = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._sending = threading.RLock()
        self._starting = threading.RLock()
        self._hurrying: list[None] = []  # its append and pop are atomic
        self._outbox = LogQueue()
        self._woken = False
        self._details: dict[str, Any] | None = None
        self._own_details: dict[str, Any] = {}
        self._ending: Mapping[str, Any] | None = None
        self._unsent: OutgoingReport | None = None
        self._sent_at = time.monotonic()

    def after_fork(self) -> None:
        """Start anew if this is a child of the process that used it last."""
        if self._pid != os.getpid():
            self._transport.close()
            self._first = {}
            self._reset()

    @property
    def is_owner(self) -> bool:
        """Whether this process opened the job, not one forked from it."""
        return os.getpid() == self._owner_pid

    @property
    def has_said_end(self) -> bool:
        """Whether the job's end was reported, or waits for the server to come back."""
        return self._has_ended or self._ending is not None

    def start(self) -> None:
        """Start the background thread, unless it runs."""
        self.after_fork()
        with self._starting:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="asyncaction-job", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is going down: what waits is sent by the atexit flush
                self._thread = None
            atexit.unregister(self._at_exit)
            atexit.register(self._at_exit)

    def add(self, line: LogLine) -> None:
        """Take a log line to be sent."""
        self.start()
        self._outbox.add(line)
        if not self._woken and self._outbox.is_full:
            self._haste()

    def set_details(self, details: dict[str, Any], *, hurry: bool) -> None:
        """Take the newest status details to be sent."""
        self.start()
        self._details = self._own_details = details
        if hurry:
            self._haste()

    def show_transfer(self, details: dict[str, Any]) -> None:
        """Take status details of a transfer, to be sent in place of the job's own for its time."""
        self.start()
        self._details = details

    def end_transfer(self) -> None:
        """Let the job's own status details be sent again."""
        self._details = self._own_details

    def end(self, fields: Mapping[str, Any]) -> None:
        """Send all that waits and a terminal report with it. If that finds no server, flush tries again.

        :raises ServerError: it was refused, or could not be delivered
        """
        self.after_fork()
        self._ending = dict(fields)
        self._drain(self._timing.report_patience_seconds)

    def flush(self, patience_seconds: float | None = None) -> None:
        """Send all that waits.

        :raises ServerError: it was refused, or could not be delivered
        """
        self.after_fork()
        patience = self._timing.exit_patience_seconds if patience_seconds is None else patience_seconds
        self._drain(patience)

    def call(self, request: Request) -> dict[str, Any]:
        """Send another request than a report, and return its answer.

        :raises ServerError: it was refused, or could not be delivered
        """
        self.after_fork()
        with self._hurry():
            return self._transport.send(request, patience_seconds=self._timing.report_patience_seconds)

    def discard(self) -> None:
        """Drop all that waits to be sent."""
        self.after_fork()
        with self._hurry():
            self._outbox = LogQueue()
            self._first, self._details, self._ending, self._unsent = {}, None, None, None

    def close(self) -> None:
        """Flush and stop the thread. Says on stderr what could not be sent; never raises."""
        self.after_fork()
        try:
            self.flush()
        except AsyncActionError as error:
            self._complain(error)
        thread, self._thread = self._thread, None
        if thread is not None:
            self._haste()
            thread.join(self._timing.timeout_seconds)
        with self._sending:
            self._transport.close()
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        self.close()

    def _haste(self) -> None:
        self._woken = True
        self._wake.put(None)

    @contextlib.contextmanager
    def _hurry(self) -> Iterator[None]:
        """Hold the connection, after the thread was told not to wait for a server that is away."""
        self._hurrying.append(None)
        try:
            with self._sending:
                yield
        finally:
            self._hurrying.pop()

    def _run(self) -> None:
        nap_seconds = max(
            _SHORTEST_NAP_SECONDS, min(self._timing.flush_seconds, self._timing.heartbeat_seconds)
        )
        while self._thread is threading.current_thread():
            self._send_due()
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=nap_seconds)
            self._woken = False

    def _send_due(self) -> None:
        """Send what there is, or a heartbeat if it is time; go on while there are lines for a full report."""
        with self._sending:
            is_first = True
            while (is_first or self._outbox.is_full) and not self._hurrying:
                is_first = False
                report = self._next()
                if report is None:
                    return
                try:
                    self._deliver_or_skip(report, self._timing.heartbeat_seconds, in_background=True)
                except ServerUnreachable:
                    return
                except ServerError as error:
                    self._complain(error)

    def _drain(self, patience_seconds: float) -> None:
        deadline = time.monotonic() + patience_seconds
        with self._hurry():
            terminal = self._ending
            is_done = False
            while not is_done:
                report = self._next(terminal, is_flush=True)
                if report is None:
                    return
                is_done = terminal is not None and report.terminal is terminal
                try:
                    is_done = self._deliver_until(deadline, report) and is_done
                except ServerUnreachable:
                    raise
                except ServerError as error:
                    if is_done:
                        self._outbox.put_back(report.lines)  # only the end was refused, not they
                    if is_done or isinstance(error, Superseded):
                        self._ending = None
                        raise
                    self._complain(error)
            self._ending, self._has_ended = None, True

    def _next(
        self, terminal: Mapping[str, Any] | None = None, *, is_flush: bool = False
    ) -> OutgoingReport | None:
        """Return the next report: the one that is kept, or one of what waits.

        The terminal report comes when all lines that wait fit into it.
        """
        if self._superseded is not None:
            if is_flush and (terminal is not None or self._outbox):
                raise self._superseded
            return None
        if self._unsent is not None:
            return self._unsent
        fields = dict(self._first)
        details, self._details = self._details, None
        if details is not None:
            fields["statusDetails"] = details
        ending = {**fields, **(terminal or {})}
        lines = self._outbox.take(less_bytes=len(encode_report(ending)) if terminal else 0)
        if terminal is not None and self._outbox:  # not all fit beside it
            lines, terminal = lines or self._outbox.take(), None
        if terminal is not None:
            fields = ending
        if not fields and not lines and (is_flush or not self._is_heartbeat_due()):
            return None
        self._first = {}
        return OutgoingReport.of(fields, lines, terminal)

    def _is_heartbeat_due(self) -> bool:
        waited = time.monotonic() - self._sent_at
        return waited >= self._timing.heartbeat_seconds and self.is_owner and not self._has_ended

    def _deliver_until(self, deadline: float, report: OutgoingReport) -> bool:
        """Send a report as :meth:`_deliver_or_skip` does, until a time of the monotonic clock.

        That method ends early when server errors make it suspicious. Each time, it is called again and
        tolerates twice as many, so that the transport's pauses keep it from being called in quick succession.
        """
        max_server_errors = _SUSPICIOUS_SERVER_ERRORS
        while True:
            try:
                left = max(0.0, deadline - time.monotonic())
                return self._deliver_or_skip(report, left, max_server_errors=max_server_errors)
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
        """Send a report. Skip it if the server fails on this one only, so that it does not block the others.

        :returns: ``False`` if another report must be composed in its place
        :raises ServerKeepsFailing: the server fails on other reports, too
        :raises ServerUnreachable: the patience is over; or it does not answer this report any more, although
            it has just answered another
        """
        most = max_server_errors if report.can_be_skipped and self.is_owner else None
        try:
            return self._deliver(
                report, patience_seconds, max_server_errors=most, in_background=in_background
            )
        except ServerKeepsFailing:
            if not self._takes_heartbeat(report):
                raise
        try:
            return self._deliver(report, 0.0, max_server_errors=1)
        except ServerKeepsFailing as error:
            self._unsent = None
            if report.lines:
                self._outbox.give_up(report.lines)
                self._restore(report)
            self._complain(error)
            return False

    def _takes_heartbeat(self, unsent: OutgoingReport) -> bool:
        try:
            return self._deliver(heartbeat(), 0.0)
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
        """Send a report; return ``False`` if it must be composed again with fewer lines."""
        self._unsent = None if report.is_heartbeat else report
        try:
            answer = self._transport.send(
                report.request,
                patience_seconds=patience_seconds,
                max_server_errors=max_server_errors,
                give_up=lambda: in_background and bool(self._hurrying),
            )
        except ServerUnreachable:
            raise
        except Superseded as error:
            self._unsent, self._superseded, self.is_stopping = None, error, True
            raise
        except ServerError as error:
            self._unsent = None
            if error.status != _TOO_LARGE or not report.lines:
                raise
            self._break_up(report)
            return False
        finally:
            self._sent_at = time.monotonic()
        self._unsent = None
        self.is_stopping = self.is_stopping or answer.get("action") == "STOP"
        return True

    def _break_up(self, report: OutgoingReport) -> None:
        """Put back what was too large for the server. A line too large by itself is given up."""
        if len(report.lines) > 1:
            self._outbox.take_fewer()
            self._outbox.put_back(report.lines)
        self._restore(report)

    def _restore(self, report: OutgoingReport) -> None:
        """Restore a skipped report's fields, except log lines and the end, for the next report."""
        if "agent" in report.fields:
            self._first = {"status": "RUNNING", "agent": report.fields["agent"]}
        if self._details is None:
            self._details = report.fields.get("statusDetails")

    def _complain(self, error: AsyncActionError) -> None:
        if not self._complained:
            self._complained = True
            print_stderr(f"a report was lost: {error}")
