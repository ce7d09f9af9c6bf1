# SPDX-License-Identifier: Apache-2.0
"""Accepted reports: the columns that a report changes in the row of its action, and those of its own row.

Pure functions, shared by both ways to write a report: with a locked row (``actions``), and in a batch without
locks (``report_batches``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from airflow_asyncaction.protocol.actions import Action, State
from airflow_asyncaction.protocol.reports import Report
from airflow_asyncaction.store import reports, rows
from airflow_asyncaction.store.refused_reports import without_v1
from airflow_asyncaction.store.reports import Envelope

PRUNE_EVERY = 64
"""Old reports of an action are deleted with every report whose number is a multiple of this."""


@dataclass(frozen=True)
class ReportColumns:
    """Columns to write for an accepted report, without those of its log lines.

    :param action: changed columns of ``async_action``
    :param report: all columns of the row in ``async_action_report``
    """

    action: dict[str, Any]
    report: dict[str, Any]

    @property
    def is_pruning_due(self) -> bool:
        """Whether old reports have to be deleted with this one."""
        return bool(self.action["report_count"] % PRUNE_EVERY == 0)


def action_before(row: Any, action: Action, envelope: Envelope) -> Action:
    """Return the action to which a report is applied: v1 is locked out if the report was signed with v2.

    :param row: row of ``async_action``
    :param action: the action of that row
    """
    return replace(action, accept_v1=False) if without_v1(row, envelope.scheme) else action


def columns_of(
    row: Any, before: Action, after: Action, report: Report, envelope: Envelope, now: datetime
) -> ReportColumns:
    """Return the columns to write for an accepted report.

    :param row: row of ``async_action`` before the report
    :param before: the result of :func:`action_before`
    """
    changes = rows.changes(before, after, now)
    changes.update(without_v1(row, envelope.scheme), report_count=row.report_count + 1)
    if report.status_details is not None and changes.get("status_details") is report.status_details:
        changes |= {"progress": report.progress, "message": report.message}
    return ReportColumns(changes, reports.columns(row.id, envelope, now, kind=_kind(report, row)))


def _kind(report: Report, row: Any) -> str:
    if report.is_heartbeat:
        return "heartbeat"
    if report.status is None or State(row.state).is_end:  # the job may report its end again
        return "report"
    return report.status.value
