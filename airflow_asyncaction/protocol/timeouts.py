# SPDX-License-Identifier: Apache-2.0
"""Timeouts of an action: ``start_timeout`` and ``heartbeat_timeout``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from airflow_asyncaction.protocol.actions import Action, Completion


@dataclass(frozen=True)
class ExpiredTimeout:
    """A timeout of the action expired.

    :param name: ``JobNeverStarted`` or ``HeartbeatTimeout``
    """

    name: str
    message: str


def find_expired_timeout(action: Action, now: datetime) -> ExpiredTimeout | None:
    """Return the timeout of an action that has expired, if any.

    ``start_timeout`` ends with the start of the process. If only a report proves that the job works
    (``completion="report"``, ``require_report``), it ends with the first report.
    """
    if action.state.is_end:
        return None
    needs_report = action.require_report or action.completion is Completion.REPORT
    has_started = action.last_report_at is not None or (action.started_at is not None and not needs_report)
    if action.start_timeout is not None and not has_started:
        waited = now - action.created_at
        if waited > action.start_timeout:
            missed = "start" if action.started_at is None else "report"
            message = f"The job did not {missed} within {_seconds(action.start_timeout)}"
            return ExpiredTimeout("JobNeverStarted", message)
    since = action.last_report_at or action.started_at
    if action.heartbeat_timeout is not None and since is not None and now - since > action.heartbeat_timeout:
        return ExpiredTimeout("HeartbeatTimeout", f"No report for {_seconds(action.heartbeat_timeout)}")
    return None


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():g} s"
