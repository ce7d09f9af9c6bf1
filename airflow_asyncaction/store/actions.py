# SPDX-License-Identifier: Apache-2.0
"""Actions as they are stored. One message is one transaction: lock the row, ``decide``, write.

Nothing here decides anything about an action's life: that is ``protocol.lifecycle``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, bindparam, select
from sqlalchemy.exc import IntegrityError

from airflow_asyncaction.exceptions import (
    ActionAdopted,
    FileRefused,
    MalformedRequest,
    RequestTooLarge,
)
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import Action, State
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import (
    Accepted,
    Decision,
    Duplicate,
    Earlier,
    Message,
    Refused,
    Supersede,
    decide,
    overdue,
)
from airflow_asyncaction.protocol.reports import SERVER_STREAM, Limits, LogLine, Report
from airflow_asyncaction.protocol.signing import Scheme
from airflow_asyncaction.protocol.tasks import Deferral
from airflow_asyncaction.store import audit, end_events, log_lines, masks, reports, rows
from airflow_asyncaction.store.adoption import is_left_to_next_try
from airflow_asyncaction.store.audit import AuditEvent
from airflow_asyncaction.store.completion import TaskCompleter
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.error_isolation import isolate_errors
from airflow_asyncaction.store.models import report_table
from airflow_asyncaction.store.proof import Unseal, proven, unsealed
from airflow_asyncaction.store.refused_reports import keep_refusal, lock_out_v1, without_v1
from airflow_asyncaction.store.reports import Envelope

_PRUNE_EVERY = 64

_EARLIER = select(report_table.c.body_sha256, report_table.c.refused_with).where(
    report_table.c.action_id == bindparam("action_id"), report_table.c.report_key == bindparam("report_key")
)

T = TypeVar("T")


@dataclass(frozen=True)
class ReportOutcome:
    """What became of a message: the action afterwards, and the refusal, if it was refused.

    :param has_ended: whether it was the job's end
    """

    action: Action
    refused: Refused | None = None
    has_ended: bool = False


@dataclass(frozen=True)
class Ended:
    """An action before and after a message that may end it; the same one if it was left as it was."""

    before: Action
    after: Action


@dataclass(frozen=True)
class View:
    """An action and its log lines after a given one.

    :param is_deferred: whether its task is to be completed by the server
    """

    action: Action
    is_deferred: bool
    log_page: log_lines.LogPage


class Actions:
    """The stored actions.

    :param replay_window: how long a report can be re-sent at the most (twice the clock skew): for that long
        the nonces of heartbeats are remembered
    :param completion: how the tasks of actions that end are completed, where they are deferred
    :param max_log_bytes: of the log lines of one action
    """

    def __init__(
        self,
        database: Database,
        *,
        replay_window: timedelta,
        completer: TaskCompleter | None = None,
        max_log_bytes: int = Limits.max_log_bytes,
    ) -> None:
        self.database = database
        self._completer = completer or TaskCompleter()
        self._replay_window = replay_window
        self._max_log_bytes = max_log_bytes

    def report(
        self, action_id: JobId, unseal: Unseal[Report], envelope: Envelope, now: datetime
    ) -> ReportOutcome:
        """Take one report of a job, once, however often it is sent.

        :raises ActionNotFound: there is no such action, and ``unseal`` does not mind
        :raises MalformedRequest: as ``unseal`` does; it is kept with the refused ones
        :raises RequestTooLarge: likewise
        """
        try:
            return self._report(action_id, unseal, envelope, now)
        except (MalformedRequest, RequestTooLarge) as error:
            with self.database.transaction() as connection:
                row = rows.lock(connection, action_id)
                if row is not None:
                    keep_refusal(connection, row, Refused(error.code, str(error)), envelope, now)
            raise

    def tell(
        self, action_id: JobId, unseal: Unseal[Message], now: datetime, *, ti_id: str | None = None
    ) -> Action:
        """Take a runner's word on an action (not a report: those have keys), and return what it is then.

        :param ti_id: the task instance that it speaks for, if it says so
        :raises ActionNotFound: there is no such action, and ``unseal`` does not mind
        :raises ActionAdopted: another try has adopted it, or is about to
        """
        with self.database.transaction() as connection:
            row, message = unsealed(rows.lock(connection, action_id), action_id, unseal)
            if ti_id is not None and row.ti_id != ti_id:
                raise ActionAdopted
            if ti_id is not None and is_left_to_next_try(connection, row, message):
                raise ActionAdopted(
                    "The next try of the task is about to adopt this action: leave its job alone"
                )
            return self._follow_up(connection, row, _apply(connection, row, message, now), now)

    def learn(self, action_id: JobId, unseal: Unseal[Sequence[str]]) -> None:
        """Take note of secrets that the task has come to know: they are masked from now on.

        :raises ActionNotFound: there is no such action, and ``unseal`` does not mind
        """
        with self.locked(action_id, unseal) as (connection, row, secrets):
            rows.write(connection, action_id, {"masks": masks.added(row, secrets)})

    def warn(self, action_id: JobId, said: str, now: datetime) -> None:
        """Write a warning of the server's own into an action's log; nothing if the action is gone."""
        with self.database.transaction() as connection:
            row = rows.lock(connection, action_id)
            if row is not None:
                line = LogLine(said, level="WARNING", stream=SERVER_STREAM)
                reports.keep_line(connection, row, "warning", line, now)

    def defer(self, action_id: JobId, unseal: Unseal[Deferral], now: datetime) -> Action:
        """Take note that the task is about to be deferred, and return the action.

        :raises ActionNotFound: there is no such action, and ``unseal`` does not mind
        """
        with self.locked(action_id, unseal) as (connection, row, deferral):
            rows.write(connection, action_id, {"deferral": strict_json.dumps(deferral.to_json())})
            reports.keep_message(connection, action_id, "deferred", now)
            return rows.to_action(row)

    def end(
        self,
        action_id: JobId,
        message: Message,
        now: datetime,
        *,
        prove: Unseal[object] | None = None,
        unless: Callable[[Connection, Row[Any]], bool] = lambda *_: False,
        audited: AuditEvent | None = None,
    ) -> Ended:
        """Apply a message from neither job nor runner to an action.

        :param prove: authenticates the sender; ``None``: the server itself, or a user whom Airflow knows.
            The action's secrets are not decrypted then: it ends also if their key was lost
        :param unless: leaves the action as it is if it returns true; called with the action's locked row
        :param audited: what a user does with it, for Airflow's audit log
        :raises ActionNotFound: it is gone
        """
        with self.database.transaction() as connection:
            row = proven(rows.lock(connection, action_id), action_id, prove)
            before = rows.to_action(row)
            if unless(connection, row):
                return Ended(before, before)
            if audited is not None:
                audit.record(connection, audited, now)
            requested_by = None if audited is None else audited.owner
            after = _apply(connection, row, message, now, requested_by=requested_by)
            return Ended(before, self._follow_up(connection, row, after, now))

    def complete_due(self, now: datetime) -> None:
        """Complete the deferred tasks that no message about their action has.

        Clocks run out, the grace for an exit ends, a task was deferred too short a time before.
        """
        with self.database.transaction() as connection:
            due = list(self._completer.find_due(connection, now))
        for action_id in due:
            with isolate_errors(action_id), self.database.transaction() as connection:
                row = rows.lock(connection, action_id)
                if row is not None:
                    self._follow_up(connection, row, rows.to_action(row), now)

    def read(self, action_id: JobId, prove: Unseal[object], scheme: Scheme) -> Action:
        """Return an action to its job.

        :param scheme: how the job asks
        :raises ActionNotFound: there is no such action, and ``prove`` does not mind
        """
        with self.database.transaction() as connection:
            row, _ = unsealed(rows.read(connection, action_id), action_id, prove)
            lock_out_v1(connection, row, scheme)
            return masks.for_job(row, rows.to_action(row))

    @contextmanager
    def locked(
        self, action_id: JobId, unseal: Unseal[T], job_scheme: Scheme | None = None
    ) -> Iterator[tuple[Connection, Row[Any], T]]:
        """Run one transaction that holds the row of an action, for a request about it.

        Yields the connection, the row, and what ``unseal`` made of the request. If the request is refused,
        nothing remains of it but that its job uses v2.

        :param job_scheme: how the job has signed the request; ``None``: it is not the job's
        :raises ActionNotFound: there is no such action, and ``unseal`` does not mind
        """
        try:
            with self.database.transaction() as connection:
                row, said = unsealed(rows.lock(connection, action_id), action_id, unseal)
                lock_out_v1(connection, row, job_scheme)
                yield connection, row, said
        except (FileRefused, MalformedRequest):  # its signature is valid
            if job_scheme is Scheme.V2:
                with self.database.transaction() as connection:
                    rows.write(connection, action_id, {"accept_v1": False})
            raise

    def view(self, action_id: JobId, prove: Unseal[object], *, after_line: int, now: datetime) -> View:
        """Return an action and its log lines after the given one; end it if one of its clocks ran out.

        :raises ActionNotFound: there is no such action, and ``prove`` does not mind
        """
        with self.database.transaction() as connection:
            row, _ = unsealed(rows.read(connection, action_id), action_id, prove)
            action = rows.to_action(row)
            log_page = log_lines.page(connection, action_id, after_line, dropped=row.log_lines_dropped)
        if overdue(action, now) is not None:
            with self.database.transaction() as connection:
                row, _ = unsealed(rows.lock(connection, action_id), action_id, prove)
                action = self._follow_up(connection, row, rows.to_action(row), now)
        return View(action, row.deferral is not None, log_page)

    def _follow_up(self, connection: Connection, row: Row[Any], action: Action, now: datetime) -> Action:
        """Return an action after what follows by itself from a change: its clocks, the end of its task."""
        action = self._check_clocks(connection, action, now)
        self._completer.complete(connection, row, action, now)
        return action

    def _report(
        self, action_id: JobId, unseal: Unseal[Report], envelope: Envelope, now: datetime
    ) -> ReportOutcome:
        try:
            with self.database.transaction() as connection:
                return self._take(connection, action_id, unseal, envelope, now, is_resend=False)
        except IntegrityError:
            # Its key is there: a re-send, maybe of a report that came in the same moment.
            with self.database.transaction() as connection:
                return self._take(connection, action_id, unseal, envelope, now, is_resend=True)

    def _take(
        self,
        connection: Connection,
        action_id: JobId,
        unseal: Unseal[Report],
        envelope: Envelope,
        now: datetime,
        *,
        is_resend: bool,
    ) -> ReportOutcome:
        row, report = unsealed(rows.lock(connection, action_id), action_id, unseal)
        before = rows.to_action(row)
        if without_v1(row, envelope.scheme):
            before = replace(before, accept_v1=False)
        earlier = _earlier(connection, action_id, envelope.key) if is_resend else None
        decision = decide(before, report, now, earlier=earlier, body_sha256=envelope.body_sha256)
        match decision:
            case Duplicate():
                return ReportOutcome(masks.for_job(row, before))
            case Refused():
                keep_refusal(connection, row, decision, envelope, now)
                return ReportOutcome(before, decision)
            case Accepted(after):
                changes = rows.changes(before, after, now)
                self._keep_report(connection, row, changes, report, envelope, now)
                end_events.collect(connection, before, after)
                if report.is_terminal:
                    self._completer.complete(connection, row, after, now)
                return ReportOutcome(masks.for_job(row, after), has_ended=report.is_terminal)

    def _keep_report(
        self,
        connection: Connection,
        row: Row[Any],
        changes: dict[str, Any],
        report: Report,
        envelope: Envelope,
        now: datetime,
    ) -> None:
        kept = reports.columns(row.id, envelope, now, kind=_kind(report, row))
        changes.update(without_v1(row, envelope.scheme), report_count=row.report_count + 1)
        if report.status_details is not None and changes.get("status_details") is report.status_details:
            changes |= {"progress": report.progress, "message": report.message}
        reports.keep(connection, row, kept, report.logs, changes, max_log_bytes=self._max_log_bytes)
        if changes["report_count"] % _PRUNE_EVERY == 0:
            reports.prune(connection, row.id, older_than=now - self._replay_window)

    def _check_clocks(self, connection: Connection, action: Action, now: datetime) -> Action:
        time_out = overdue(action, now)
        if time_out is None:
            return action
        after = _accepted(decide(action, time_out, now))
        rows.write(connection, action.id, rows.changes(action, after, now))
        reports.keep_message(connection, action.id, "timeout", now)
        end_events.collect(connection, action, after)
        return after


def _apply(
    connection: Connection, row: Row[Any], message: Message, now: datetime, *, requested_by: str | None = None
) -> Action:
    before = rows.to_action(row)
    after = _accepted(decide(before, message, now))
    rows.write(connection, row.id, rows.changes(before, after, now))
    kind = type(message).__name__.lower()
    reports.keep_message(connection, row.id, kind, now, requested_by=requested_by)
    end_events.collect(connection, before, after)
    return after


def supersede(connection: Connection, action_id: JobId, now: datetime) -> None:
    """Fence an action within the transaction that registers its next attempt."""
    row = rows.lock(connection, action_id)
    if row is not None:
        _apply(connection, row, Supersede(), now)


def _accepted(decision: Decision) -> Action:
    if not isinstance(decision, Accepted):
        raise AssertionError(f"only reports can be refused: {decision}")
    return decision.action


def _earlier(connection: Connection, action_id: JobId, key: str) -> Earlier | None:
    row = connection.execute(_EARLIER, {"action_id": action_id, "report_key": key}).one_or_none()
    return None if row is None else Earlier(row.body_sha256, row.refused_with)


def _kind(report: Report, row: Row[Any]) -> str:
    if report.is_heartbeat:
        return "heartbeat"
    if report.status is None or State(row.state).is_end:  # the same end again is no other
        return "report"
    return report.status.value
