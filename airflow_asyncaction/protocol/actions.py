# SPDX-License-Identifier: Apache-2.0
"""Action: its state, its timeouts, and its JSON form in responses to jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_asyncaction.protocol.compat import StrEnum, keyword_dataclass
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.options import DURATION, FLAG, LINES, NAME, choice, option
from airflow_asyncaction.protocol.reports import ReportedStatus
from airflow_asyncaction.protocol.strict_json import JsonText


class State(StrEnum):
    """State of an action."""

    SCHEDULED = "SCHEDULED"  # waits for its scheduled time
    QUEUED = "QUEUED"  # requested, not launched yet
    STARTING = "STARTING"  # registered, being launched
    RUNNING = "RUNNING"  # the process is up, or the job has reported
    SUCCESS = "SUCCESS"  # the job succeeded
    ERROR = "ERROR"  # the job failed
    TIMEOUT = "TIMEOUT"  # one of its timeouts expired
    STOPPED = "STOPPED"  # stopped, superseded or skipped before it was done

    @property
    def is_end(self) -> bool:
        """Whether the state is final."""
        return self in _ENDS

    @property
    def is_waiting(self) -> bool:
        """Whether no task has registered the action yet."""
        return self in _WAITING


_ENDS = frozenset({State.SUCCESS, State.ERROR, State.TIMEOUT, State.STOPPED})
_WAITING = frozenset({State.SCHEDULED, State.QUEUED})


SKIPPED = "Skipped"
"""Error name of a STOPPED action that was skipped, as Airflow skips tasks. A report cannot set it."""


def is_skipped(state: State, error_name: str | None) -> bool:
    """Return whether an action with this state and error name was skipped. It is not retried then."""
    return state is State.STOPPED and error_name == SKIPPED


class Completion(StrEnum):
    """The event that ends an action."""

    EXIT = "exit"  # the exit of the process or pod, together with its reports
    REPORT = "report"  # the terminal report alone: the command only submits the work


class Verb(StrEnum):
    """Request from the server to a job."""

    STOP = "STOP"  # finish or clean up: the job is killed after stop_grace


class StopReason(StrEnum):
    """Reason for stopping a job."""

    REQUESTED = "Requested"  # by a user: no retry
    KILLED = "Killed"  # its task was cleared or marked, or its worker is shutting down
    EXECUTION_TIMEOUT = "ExecutionTimeout"  # Airflow's execution_timeout expired


@keyword_dataclass
class ActionOptions:
    """Options for the start, monitoring and end of an action. Users find them in ``BaseActionOperator``.

    To add one, add a field here, a parameter to ``BaseActionOperator``, and a migration for its column. Its
    names and checks in requests of tasks and its column follow from the field.

    :param accept_v1: whether v1 signatures are accepted; False from the job's first v2 signature on
    :param max_log_lines: how many reported log lines to keep
    :param orchestrator: the job's JOB_ORCHESTRATOR; ``None``: the deployment's
    """

    completion: Completion = option(choice(Completion), Completion.EXIT)
    require_report: bool = option(FLAG, False)
    start_timeout: timedelta | None = option(DURATION, None)
    heartbeat_timeout: timedelta | None = option(DURATION, None)
    accept_v1: bool = option(FLAG, True)
    max_log_lines: int = option(LINES, 10_000)
    orchestrator: str | None = option(NAME, None)


@keyword_dataclass
class Action(ActionOptions):
    """One requested execution: exactly the fields that :func:`lifecycle.decide` needs.

    :param service_name: the service whose method a webda job calls, with ``arguments``; set together with
        ``method``
    :param reported: the job's terminal report
    :param fenced: Airflow ended it; all further requests of the job are refused with 410
    :param exit: how the process or pod ended, as JSON, once the runner has seen it
    :param created_at: aware UTC, like all times
    """

    id: JobId
    type: str
    attempt: int
    created_at: datetime
    state: State = State.STARTING
    arguments: JsonText = JsonText("{}")
    reported: ReportedStatus | None = None
    status_details: JsonText | None = None
    results: JsonText | None = None
    error_name: str | None = None
    error_message: str | None = None
    agent: JsonText | None = None
    job: JsonText | None = None
    verb: Verb | None = None
    stop_reason: StopReason | None = None
    fenced: bool = False
    exit: JsonText | None = None
    started_at: datetime | None = None
    last_report_at: datetime | None = None
    ended_at: datetime | None = None
    service_name: str | None = None
    method: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether its task has nothing left to wait for.

        With ``completion="exit"``, a job that has reported its end may still be running. The action is done
        when the process has exited.
        """
        if not self.state.is_end:
            return False
        return self.fenced or self.completion is Completion.REPORT or self.exit is not None


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


def action_to_json(action: Action, *, now: datetime) -> dict[str, Any]:
    """Return the response to a job. It never contains the secret, logs or status details."""
    return {
        "uuid": action.id,
        "type": action.type,
        "status": action.state.value,
        "action": action.verb.value if action.verb and not action.state.is_end else None,
        "arguments": _parsed(action.arguments),
        "serviceName": action.service_name,
        "method": action.method,
        "results": _parsed(action.results),
        "errorMessage": action.error_message,
        "errorName": action.error_name,
        "job": _parsed(action.job),
        "attempt": action.attempt,
        "lastJobUpdate": None if action.last_report_at is None else unix_ms(action.last_report_at),
        "serverTime": unix_ms(now),
    }


def unix_ms(moment: datetime) -> int:
    """Return a time as Unix time in ms."""
    return int(moment.timestamp() * 1000)


def iso_time(moment: datetime | None) -> str | None:
    """Format a time as ISO 8601 in UTC with ms, such as ``2030-01-31T12:00:00.000Z``."""
    if moment is None:
        return None
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parsed(text: JsonText | None) -> Any:
    return None if text is None else json.loads(text)


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():g} s"
