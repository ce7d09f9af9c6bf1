# SPDX-License-Identifier: Apache-2.0
"""Known actions: rows of running actions as this process last read or wrote them, and what reports change.

Nothing is refused because of a known row, which may be outdated: it only tells what to write if the row is
still the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from airflow_asyncaction.protocol.actions import Action, State
from airflow_asyncaction.protocol.decisions import Accepted
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import decide
from airflow_asyncaction.protocol.reports import Report
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.store import accepted_reports, log_lines, masks, rows
from airflow_asyncaction.store.proof import Credentials, Unseal, credentials_of
from airflow_asyncaction.store.report_statement import CHANGEABLE, ReportRow
from airflow_asyncaction.store.reports import Envelope

MAX_ROW_CHARS = 64 * 1024
"""Larger rows are not kept: parsing their arguments would block the event loop with every report."""

_MAX_COUNT = 10_000
_MAX_CHARS = 64 * 1024 * 1024
_ROW_CHARS = 2048  # of all that is not text
_RUNNING = (State.STARTING, State.RUNNING)


@dataclass(frozen=True)
class KnownAction:
    """An action as it was read.

    :param row: has the columns of ``rows.SELECT`` as attributes
    :param arguments: the unmasked arguments, for the job
    :param size: approximate number of characters
    """

    row: Any
    action: Action
    credentials: Credentials
    arguments: JsonText
    size: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> KnownAction | None:
        """Return the action of a row that asyncpg has read; ``None`` if it is too large.

        :raises SecretUnreadable: its secrets were encrypted with a key that is not configured
        """
        columns = dict(record)
        for name in ("id", "ti_id"):
            columns[name] = columns[name] and str(columns[name])
        size = _size(columns)
        if size > MAX_ROW_CHARS:
            return None
        row: Any = SimpleNamespace(**columns)
        action = rows.to_action(row)
        return cls(row, action, credentials_of(row), masks.for_job(row, action).arguments, size)

    def after(self, written: OrdinaryReport) -> KnownAction | None:
        """Return the action after a report was written; ``None`` if it is too large."""
        changes = {**written.row.changes, "revision": self.row.revision + 1}
        row = SimpleNamespace(**{**vars(self.row), **changes})
        size = _size(vars(row))
        if size > MAX_ROW_CHARS:
            return None
        credentials = self.credentials
        if row.accept_v1 != credentials.accept_v1:
            credentials = replace(credentials, accept_v1=row.accept_v1)
        return KnownAction(row, written.action, credentials, self.arguments, size)

    def for_job(self, action: Action) -> Action:
        """Return a later state of the action with unmasked arguments."""
        return action if action.arguments is self.arguments else replace(action, arguments=self.arguments)


@dataclass(frozen=True)
class Submission:
    """A report to apply.

    :param unseal: verifies and parses the report
    :param now: time of the request
    """

    action_id: JobId
    unseal: Unseal[Report]
    envelope: Envelope
    now: datetime


@dataclass(frozen=True)
class OrdinaryReport:
    """An accepted report that leaves its action running, and needs nothing but its columns to be written.

    :param action: the action after it
    """

    row: ReportRow
    action: Action


def judge(known: KnownAction, submission: Submission, *, max_log_bytes: int) -> OrdinaryReport | None:
    """Return what a report changes; ``None`` if it is not ordinary, or was not accepted.

    :raises Exception: whatever ``unseal`` raises: the signature or the report is invalid
    """
    report, row, now = submission.unseal(known.credentials), known.row, submission.now
    before = accepted_reports.action_before(row, known.action, submission.envelope)
    if report.is_terminal or before.state not in _RUNNING:
        return None
    decision = decide(before, report, now, body_sha256=submission.envelope.body_sha256)
    if not isinstance(decision, Accepted):
        return None
    columns = accepted_reports.columns_of(row, before, decision.action, report, submission.envelope, now)
    if columns.is_pruning_due:
        return None
    if report.logs:
        appended = log_lines.Appended.to(row, report.logs)
        if appended.exceeds_limits(row, max_log_bytes=max_log_bytes):
            return None
        columns.report.update(appended.report_columns)
        columns.action.update(appended.action_columns)
    if not columns.action.keys() <= CHANGEABLE:
        return None
    return OrdinaryReport(ReportRow(row, columns.action, columns.report), decision.action)


class KnownActions:
    """Least recently used cache of actions, limited in number and size."""

    def __init__(self, *, max_count: int = _MAX_COUNT, max_chars: int = _MAX_CHARS) -> None:
        self._known: OrderedDict[JobId, KnownAction] = OrderedDict()
        self._max_count, self._max_chars = max_count, max_chars
        self.chars = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, action_id: JobId) -> KnownAction | None:
        """Return an action, and mark it as used."""
        known = self._known.get(action_id)
        if known is not None:
            self._known.move_to_end(action_id)
        return known

    def put(self, action_id: JobId, known: KnownAction | None) -> None:
        """Add or replace an action, and remove those that were not used for longest. ``None`` removes it."""
        self.forget(action_id)
        if known is None:
            return
        self._known[action_id] = known
        self.chars += known.size
        while len(self._known) > self._max_count or self.chars > self._max_chars:
            self.forget(next(iter(self._known)))

    def forget(self, action_id: JobId) -> None:
        """Remove an action."""
        known = self._known.pop(action_id, None)
        if known is not None:
            self.chars -= known.size


def _size(columns: Mapping[str, Any]) -> int:
    return _ROW_CHARS + sum(len(value) for value in columns.values() if isinstance(value, str))
