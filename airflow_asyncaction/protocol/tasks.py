# SPDX-License-Identifier: Apache-2.0
"""What a task and the API server say to each other about an action.

Not part of PROTOCOL.md: both ends are of one release of this package. During an upgrade, the server is newer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from airflow_asyncaction.exceptions import MalformedReport
from airflow_asyncaction.protocol.actions import (
    Action,
    Completion,
    State,
    StopReason,
    Verb,
    in_seconds,
    is_skipped,
)
from airflow_asyncaction.protocol.compat import StrEnum, keyword_dataclass
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.json_fields import enum_field, optional_field, typed_field
from airflow_asyncaction.protocol.masking import MAX_VALUES
from airflow_asyncaction.protocol.reports import MAX_NAME_CHARS, LogLine, is_name, printable
from airflow_asyncaction.protocol.strict_json import JsonText, NotJson, loads

TRIGGERS = "airflow_asyncaction.triggers."
"""Where the triggers are that the server completes tasks of."""

COMMITMENT_KEY = "asyncaction.commitment"
"""Key of the task state store under which a task leaves sha256(nonce), hex, before it registers."""

TASK_ID_HEADER = "X-Task-Id"
TASK_NONCE_HEADER = "X-Task-Nonce"
"""What proves who registers stands in headers, so that the body need not be read before."""

RESULTS_CHANGED = (
    "An XCom cannot hold the results as they are. Integers of more than 64 bits, strings with NUL and objects"
    " with keys that Airflow reserves are in it as JSON text. The action has the results unchanged"
)
"""Logged if the XCom differs from the results."""


@dataclass(frozen=True)
class TaskCredentials:
    """Signs the requests of an action's task.

    :param secret_key: the task key of this action alone, which its job never gets; not shown by ``repr``
    """

    job_id: JobId
    secret_key: str = field(repr=False)


@keyword_dataclass
class ActionSpec:
    """What a task asks for.

    :param runner: name of the kind of runner
    :param log_limit: log lines to keep
    :param adoptable: whether the job may outlive its worker: then another process of the task adopts it
    :param takes_over: whether this try takes over the job of an earlier one; whoever resumes a task does
    :param traceparent: W3C trace context of the task
    :param service_name: the service whose method a webda job calls, with ``arguments``; given with ``method``
    :param orchestrator: the job's JOB_ORCHESTRATOR; the deployment's name unless given
    :param secrets: what Airflow masks in the task's log, to be masked in what the job reports; not shown by
        ``repr``
    """

    type: str
    runner: str
    arguments: JsonText = JsonText("{}")
    completion: Completion = Completion.EXIT
    require_report: bool = False
    start_timeout: timedelta | None = None
    heartbeat_timeout: timedelta | None = None
    accept_v1: bool = True
    log_limit: int = 10_000
    adoptable: bool = False
    takes_over: bool = True
    traceparent: str | None = None
    service_name: str | None = None
    method: str | None = None
    orchestrator: str | None = None
    secrets: Sequence[str] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the body's ``spec``."""
        return {
            "type": self.type,
            "runner": self.runner,
            "arguments": self.arguments,
            "completion": self.completion.value,
            "requireReport": self.require_report,
            "startTimeoutSeconds": in_seconds(self.start_timeout),
            "heartbeatTimeoutSeconds": in_seconds(self.heartbeat_timeout),
            "acceptV1": self.accept_v1,
            "logLimit": self.log_limit,
            "adoptable": self.adoptable,
            "takesOver": self.takes_over,
            "traceparent": self.traceparent,
            "serviceName": self.service_name,
            "method": self.method,
            "orchestrator": self.orchestrator,
            "secrets": list(self.secrets),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ActionSpec:
        """Read what :meth:`to_json` wrote.

        :raises MalformedReport: it did not
        """
        return cls(
            type=printable(typed_field(fields, "type", str))[:250],
            runner=printable(typed_field(fields, "runner", str))[:50],
            arguments=_json_text(fields, "arguments"),
            completion=enum_field(fields, "completion", Completion),
            require_report=typed_field(fields, "requireReport", bool),
            start_timeout=_duration(fields, "startTimeoutSeconds"),
            heartbeat_timeout=_duration(fields, "heartbeatTimeoutSeconds"),
            accept_v1=typed_field(fields, "acceptV1", bool),
            log_limit=max(0, min(typed_field(fields, "logLimit", int), 10**6)),
            adoptable=optional_field(fields, "adoptable", bool) is True,
            takes_over=optional_field(fields, "takesOver", bool) is not False,
            traceparent=printable(optional_field(fields, "traceparent", str) or "")[:55] or None,
            **_call(fields),
            orchestrator=_name(fields, "orchestrator"),
            secrets=secrets_from_json(fields),
        )


class NeedsWorker(StrEnum):
    """Whether a worker has something to do at the end of a deferred task."""

    ALWAYS = "always"  # asset events, callbacks, an XCom backend, ...: only workers do these
    FOR_LOGS = "for_logs"  # unless the trigger saw the exit: it has read the log before it told
    ON_FAILURE = "on_failure"  # only for the exception, by which Airflow decides on a retry


@keyword_dataclass
class Deferral:
    """How the task of an action is to be completed while no worker waits for it.

    :param pushes_results: whether the results become the XCom ``return_value``
    """

    needs_worker: NeedsWorker
    pushes_results: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the body of ``POST /task/defer``."""
        return {"needsWorker": self.needs_worker.value, "pushesResults": self.pushes_results}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Deferral:
        """Read what :meth:`to_json` wrote.

        :raises MalformedReport: it did not
        """
        return cls(
            needs_worker=enum_field(fields, "needsWorker", NeedsWorker),
            pushes_results=typed_field(fields, "pushesResults", bool),
        )


@keyword_dataclass
class TaskView:
    """An action as its task sees it.

    :param job: what identifies the job, as the runner told
    :param exit: how the process or pod ended, once the runner has told
    :param is_deferred: whether no worker waits for it, and the server is to complete its task
    :param first_line: number of the first of ``logs``
    :param has_more_logs: whether to ask for more at once
    """

    state: State
    is_done: bool
    verb: Verb | None
    stop_reason: StopReason | None
    results: JsonText | None
    error_name: str | None
    error_message: str | None
    status_details: JsonText | None
    job: JsonText | None = None
    exit: JsonText | None = None
    is_deferred: bool = False
    logs: tuple[LogLine, ...] = ()
    first_line: int = 1
    has_more_logs: bool = False

    @property
    def is_skipped(self) -> bool:
        """Whether it ended since it was skipped."""
        return is_skipped(self.state, self.error_name)

    @property
    def exit_seen(self) -> bool:
        """Whether the runner told how the process or pod ended."""
        return self.exit is not None

    @classmethod
    def of(
        cls,
        action: Action,
        *,
        is_deferred: bool = False,
        logs: tuple[LogLine, ...] = (),
        first_line: int = 1,
        has_more: bool = False,
    ) -> TaskView:
        """Return the view of an action."""
        return cls(
            state=action.state,
            is_done=action.is_done,
            verb=action.verb,
            stop_reason=action.stop_reason,
            results=action.results,
            error_name=action.error_name,
            error_message=action.error_message,
            status_details=action.status_details,
            job=action.job,
            exit=action.exit,
            is_deferred=is_deferred,
            logs=logs,
            first_line=first_line,
            has_more_logs=has_more,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the body of an answer."""
        return {
            "state": self.state.value,
            "isDone": self.is_done,
            "verb": self.verb,
            "stopReason": self.stop_reason,
            "results": self.results,
            "errorName": self.error_name,
            "errorMessage": self.error_message,
            "statusDetails": self.status_details,
            "job": self.job,
            "exit": self.exit,
            "isDeferred": self.is_deferred,
            "logs": [line.to_json() for line in self.logs],
            "firstLine": self.first_line,
            "hasMoreLogs": self.has_more_logs,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TaskView:
        """Read what :meth:`to_json` wrote."""
        return cls(
            state=State(fields["state"]),
            is_done=fields["isDone"],
            verb=Verb(fields["verb"]) if fields["verb"] else None,
            stop_reason=StopReason(fields["stopReason"]) if fields["stopReason"] else None,
            results=fields["results"],
            error_name=fields["errorName"],
            error_message=fields["errorMessage"],
            status_details=fields["statusDetails"],
            job=fields["job"],
            exit=fields["exit"],
            is_deferred=fields["isDeferred"],
            logs=tuple(LogLine.from_json(line) for line in fields["logs"]),
            first_line=fields["firstLine"],
            has_more_logs=fields["hasMoreLogs"],
        )


def secrets_from_json(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the secrets of a spec, or those that a task has come to know since; older releases send none.

    :raises MalformedReport: they are not a list of strings, or too many
    """
    secrets = fields.get("secrets", [])
    if not isinstance(secrets, list) or not all(isinstance(secret, str) for secret in secrets):
        raise MalformedReport("secrets is not a list of strings", field="secrets")
    if len(secrets) > MAX_VALUES:
        raise MalformedReport(f"secrets has more than {MAX_VALUES} values", field="secrets")
    return tuple(secrets)


def _json_text(fields: Mapping[str, Any], name: str) -> JsonText:
    text = typed_field(fields, name, str)
    try:
        loads(text)
    except NotJson as error:
        raise MalformedReport(f"{name} is not JSON: {error}", field=name) from None
    return JsonText(text)


def _call(fields: Mapping[str, Any]) -> dict[str, str | None]:
    service_name, method = _name(fields, "serviceName"), _name(fields, "method")
    if (service_name is None) != (method is None):
        raise MalformedReport("serviceName and method must be given together", field="method")
    return {"service_name": service_name, "method": method}


def _name(fields: Mapping[str, Any], name: str) -> str | None:
    value: str | None = optional_field(fields, name, str)
    if value is not None and not is_name(value):
        raise MalformedReport(f"{name} must be 1 to {MAX_NAME_CHARS} printable characters", field=name)
    return value


def _duration(fields: Mapping[str, Any], name: str) -> timedelta | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 10**9:
        raise MalformedReport(f"{name} is not a number of seconds", field=name)
    return timedelta(seconds=value)
