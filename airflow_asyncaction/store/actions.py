# SPDX-License-Identifier: Apache-2.0
"""Actions: applies messages to stored actions. Each message is one transaction: lock, ``decide``, write.

``protocol.lifecycle`` contains all decisions about the lifecycle of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from airflow_asyncaction.protocol.actions import Action, find_expired_timeout
from airflow_asyncaction.protocol.decisions import Accepted, Decision, Duplicate, EarlierReport, Refused
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Message, Supersede, decide
from airflow_asyncaction.protocol.reports import SERVER_STREAM, Limits, LogLine, Report
from airflow_asyncaction.protocol.signing import Scheme
from airflow_asyncaction.protocol.tasks import Deferral
from airflow_asyncaction.store import accepted_reports, audit, end_events, log_lines, masks, reports, rows
from airflow_asyncaction.store.adoption import is_left_to_next_try
from airflow_asyncaction.store.audit import AuditEvent
from airflow_asyncaction.store.completion import TaskCompleter
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.error_isolation import isolate_errors
from airflow_asyncaction.store.models import report_table
from airflow_asyncaction.store.proof import Unseal, proven, unsealed
from airflow_asyncaction.store.refused_reports import add_refusal, lock_out_v1
from airflow_asyncaction.store.reports import Envelope
from airflow_asyncaction.store.versions import version_of

_EARLIER = select(report_table.c.body_sha256, report_table.c.refused_with).where(
    report_table.c.action_id == bindparam("action_id"), report_table.c.report_key == bindparam("report_key")
)

T = TypeVar("T")


@dataclass(frozen=True)
class ReportOutcome:
    """Outcome of a report: the resulting action, and the refusal if the report was refused.

    :param has_ended: whether the job reported its end
    """

    action: Action
    refused: Refused | None = None
    has_ended: bool = False


@dataclass(frozen=True)
class Transition:
    """An action before and after a message; both are equal if the message did not change it."""

    before: Action
    after: Action


@dataclass(frozen=True)
class ActionView:
    """An action and a page of its log lines, for its task.

    :param is_deferred: whether the task is deferred, in which case the server completes it
    :param version: the version of the action when it was read
    """

    action: Action
    is_deferred: bool
    log_page: log_lines.LogPage
    version: str


class Actions:
    """Applies messages to stored actions.

    :param replay_window: how long a report can be resent (twice the clock skew): the nonces of heartbeats
        are kept for this long
    :param completer: completes the deferred tasks of actions that end
    :param max_log_bytes: maximum size of the log lines of one action
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

    def apply_report(
        self, action_id: JobId, unseal: Unseal[Report], envelope: Envelope, now: datetime
    ) -> ReportOutcome:
        """Apply one report of a job. A resent report is not applied again.

        :raises ActionNotFound: the action does not exist, unless ``unseal(None)`` raised another error
        :raises MalformedRequest: raised by ``unseal``; the report is stored as refused
        :raises RequestTooLarge: likewise
        """
        try:
            return self._apply_report(action_id, unseal, envelope, now)
        except (MalformedRequest, RequestTooLarge) as error:
            with self.database.transaction() as connection:
                row = rows.lock(connection, action_id)
                if row is not None:
                    add_refusal(connection, row, Refused(error.code, str(error)), envelope, now)
            raise

    def apply_runner_message(
        self, action_id: JobId, unseal: Unseal[Message], now: datetime, *, ti_id: str | None = None
    ) -> Action:
        """Apply a runner's message, and return the resulting action. Unlike reports, it is not deduplicated.

        :param ti_id: the task instance of the runner, if the request names it
        :raises ActionNotFound: the action does not exist, unless ``unseal(None)`` raised another error
        :raises ActionAdopted: another try has adopted the action, or is about to
        """
        with self.database.transaction() as connection:
            row, message = unsealed(rows.lock(connection, action_id), action_id, unseal)
            if ti_id is not None and row.ti_id != ti_id:
                raise ActionAdopted
            if ti_id is not None and is_left_to_next_try(connection, row, message):
                raise ActionAdopted(
                    "The next try of the task is about to adopt this action: leave its job running"
                )
            return self._follow_up(connection, row, _apply(connection, row, message, now), now)

    def add_secrets(self, action_id: JobId, unseal: Unseal[Sequence[str]]) -> None:
        """Add secrets to mask from now on.

        :raises ActionNotFound: the action does not exist, unless ``unseal(None)`` raised another error
        """
        with self.locked(action_id, unseal) as (connection, row, secrets):
            rows.write(connection, action_id, {"masks": masks.added(row, secrets)})

    def log_warning(self, action_id: JobId, message: str, now: datetime) -> None:
        """Append a warning from the server to the log of an action, unless the action was deleted."""
        with self.database.transaction() as connection:
            row = rows.lock(connection, action_id)
            if row is not None:
                line = LogLine(message, level="WARNING", stream=SERVER_STREAM)
                reports.add_line(connection, row, "warning", line, now)

    def defer(self, action_id: JobId, unseal: Unseal[Deferral], now: datetime) -> Action:
        """Record that the task is about to be deferred, and return the action.

        :raises ActionNotFound: the action does not exist, unless ``unseal(None)`` raised another error
        """
        with self.locked(action_id, unseal) as (connection, row, deferral):
            rows.write(connection, action_id, {"deferral": strict_json.dumps(deferral.to_json())})
            reports.add_message(connection, action_id, "deferred", now)
            return rows.to_action(row)

    def apply_message(
        self,
        action_id: JobId,
        message: Message,
        now: datetime,
        *,
        prove: Unseal[object] | None = None,
        unless: Callable[[Connection, Row[Any]], bool] = lambda *_: False,
        audited: AuditEvent | None = None,
    ) -> Transition:
        """Apply a message of the server, a user or another task.

        :param prove: authenticates the sender; ``None`` for the server itself and for users authenticated by
            Airflow. The action's secrets are then not decrypted, so it can end even if their key is lost
        :param unless: called with the locked row; if it returns true, the message is not applied
        :param audited: the user's event for Airflow's audit log
        :raises ActionNotFound: the action was deleted
        """
        with self.database.transaction() as connection:
            row = proven(rows.lock(connection, action_id), action_id, prove)
            before = rows.to_action(row)
            if unless(connection, row):
                return Transition(before, before)
            if audited is not None:
                audit.record(connection, audited, now)
            requested_by = None if audited is None else audited.owner
            after = _apply(connection, row, message, now, requested_by=requested_by)
            return Transition(before, self._follow_up(connection, row, after, now))

    def complete_due(self, now: datetime) -> None:
        """Complete the deferred tasks that are due although no message has arrived.

        A timeout or the grace period for an exit expired, or the task could not be resumed right after it was
        deferred.
        """
        with self.database.transaction() as connection:
            due = list(self._completer.find_due(connection, now))
        for action_id in due:
            with isolate_errors(action_id), self.database.transaction() as connection:
                row = rows.lock(connection, action_id)
                if row is not None:
                    self._follow_up(connection, row, rows.to_action(row), now)

    def read_for_job(self, action_id: JobId, prove: Unseal[object], scheme: Scheme) -> Action:
        """Return an action for its job, with unmasked arguments.

        :param scheme: signature scheme of the job's request
        :raises ActionNotFound: the action does not exist, unless ``prove(None)`` raised another error
        """
        with self.database.transaction() as connection:
            row, _ = unsealed(rows.read(connection, action_id), action_id, prove)
            lock_out_v1(connection, row, scheme)
            return masks.for_job(row, rows.to_action(row))

    @contextmanager
    def locked(
        self, action_id: JobId, unseal: Unseal[T], job_scheme: Scheme | None = None
    ) -> Iterator[tuple[Connection, Row[Any], T]]:
        """Run one transaction that locks the row of an action, for a request about it.

        Yields the connection, the row and the result of ``unseal``. If the request is refused, the
        transaction is rolled back, but v1 stays locked out if the job used v2.

        :param job_scheme: signature scheme of the job's request; ``None`` if the job did not send it
        :raises ActionNotFound: the action does not exist, unless ``unseal(None)`` raised another error
        """
        try:
            with self.database.transaction() as connection:
                row, content = unsealed(rows.lock(connection, action_id), action_id, unseal)
                lock_out_v1(connection, row, job_scheme)
                yield connection, row, content
        except (FileRefused, MalformedRequest):  # its signature is valid
            if job_scheme is Scheme.V2:
                with self.database.transaction() as connection:
                    rows.write(connection, action_id, {"accept_v1": False})
            raise

    def read_for_task(
        self, action_id: JobId, prove: Unseal[object], *, after_line: int, now: datetime
    ) -> ActionView:
        """Return an action and its log lines after ``after_line``; end it if its timeout expired.

        :raises ActionNotFound: the action does not exist, unless ``prove(None)`` raised another error
        """
        with self.database.transaction() as connection:
            row, _ = unsealed(rows.read(connection, action_id), action_id, prove)
            action, version = rows.to_action(row), version_of(row)
            log_page = log_lines.page(connection, action_id, after_line, dropped=row.log_lines_dropped)
        if find_expired_timeout(action, now) is not None:
            with self.database.transaction() as connection:
                row, _ = unsealed(rows.lock(connection, action_id), action_id, prove)
                action = self._follow_up(connection, row, rows.to_action(row), now)
        return ActionView(action, row.deferral is not None, log_page, version)

    def _follow_up(self, connection: Connection, row: Row[Any], action: Action, now: datetime) -> Action:
        """Check the timeouts of an action and complete its deferred task, after a change of the action."""
        action = self._check_timeouts(connection, action, now)
        self._completer.complete(connection, row, action, now)
        return action

    def _apply_report(
        self, action_id: JobId, unseal: Unseal[Report], envelope: Envelope, now: datetime
    ) -> ReportOutcome:
        try:
            with self.database.transaction() as connection:
                return self._lock_and_apply(connection, action_id, unseal, envelope, now, is_resend=False)
        except IntegrityError:
            # The key exists: the report was resent, perhaps while the first one was being applied.
            with self.database.transaction() as connection:
                return self._lock_and_apply(connection, action_id, unseal, envelope, now, is_resend=True)

    def _lock_and_apply(
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
        before = accepted_reports.action_before(row, rows.to_action(row), envelope)
        earlier = _find_earlier(connection, action_id, envelope.key) if is_resend else None
        decision = decide(before, report, now, earlier=earlier, body_sha256=envelope.body_sha256)
        match decision:
            case Duplicate():
                return ReportOutcome(masks.for_job(row, before))
            case Refused():
                add_refusal(connection, row, decision, envelope, now)
                return ReportOutcome(before, decision)
            case Accepted(after):
                columns = accepted_reports.columns_of(row, before, after, report, envelope, now)
                self._store_report(connection, row, columns, report, now)
                end_events.collect(connection, before, after)
                if report.is_terminal:
                    self._completer.complete(connection, row, after, now)
                return ReportOutcome(masks.for_job(row, after), has_ended=report.is_terminal)

    def _store_report(
        self,
        connection: Connection,
        row: Row[Any],
        columns: accepted_reports.ReportColumns,
        report: Report,
        now: datetime,
    ) -> None:
        reports.add(
            connection, row, columns.report, report.logs, columns.action, max_log_bytes=self._max_log_bytes
        )
        if columns.is_pruning_due:
            reports.prune(connection, row.id, older_than=now - self._replay_window)

    def _check_timeouts(self, connection: Connection, action: Action, now: datetime) -> Action:
        expired = find_expired_timeout(action, now)
        if expired is None:
            return action
        after = _accepted(decide(action, expired, now))
        rows.write(connection, action.id, rows.changes(action, after, now))
        reports.add_message(connection, action.id, "timeout", now)
        end_events.collect(connection, action, after)
        return after


def _apply(
    connection: Connection, row: Row[Any], message: Message, now: datetime, *, requested_by: str | None = None
) -> Action:
    before = rows.to_action(row)
    after = _accepted(decide(before, message, now))
    rows.write(connection, row.id, rows.changes(before, after, now))
    kind = type(message).__name__.lower()
    reports.add_message(connection, row.id, kind, now, requested_by=requested_by)
    end_events.collect(connection, before, after)
    return after


def supersede(connection: Connection, action_id: JobId, now: datetime) -> None:
    """Supersede an action in the transaction that registers the next attempt."""
    row = rows.lock(connection, action_id)
    if row is not None:
        _apply(connection, row, Supersede(), now)


def _accepted(decision: Decision) -> Action:
    if not isinstance(decision, Accepted):
        raise AssertionError(f"only reports can be refused, got {decision}")
    return decision.action


def _find_earlier(connection: Connection, action_id: JobId, key: str) -> EarlierReport | None:
    row = connection.execute(_EARLIER, {"action_id": action_id, "report_key": key}).one_or_none()
    return None if row is None else EarlierReport(row.body_sha256, row.refused_with)
