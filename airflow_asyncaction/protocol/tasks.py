# SPDX-License-Identifier: Apache-2.0
"""Task API: messages between a task and the API server about an action.

Not part of PROTOCOL.md: both sides run the same release of this package. During an upgrade, the server may be
newer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_asyncaction.exceptions import MalformedRequest
from airflow_asyncaction.protocol.actions import (
    Action,
    ActionOptions,
    State,
    StopReason,
    Verb,
    is_skipped,
)
from airflow_asyncaction.protocol.compat import StrEnum, keyword_dataclass
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.json_fields import enum_field, optional_field, typed_field
from airflow_asyncaction.protocol.masking import MAX_VALUES
from airflow_asyncaction.protocol.options import options_from_json, options_to_json
from airflow_asyncaction.protocol.reports import (
    MAX_NAME_CHARS,
    LogLine,
    is_name,
    replace_nul,
)
from airflow_asyncaction.protocol.strict_json import JsonText, NotJson, loads

TRIGGERS = "airflow_asyncaction.triggers."
"""Module prefix of this package's triggers. The server completes only tasks that were deferred with these."""

COMMITMENT_KEY = "asyncaction.commitment"
"""Key in the task state store under which a task writes sha256(nonce), in hex, before it registers."""

TASK_ID_HEADER = "X-Task-Id"
TASK_NONCE_HEADER = "X-Task-Nonce"
"""The proof of a registration is in headers, so that it is checked before the body is read."""

LONGEST_WAIT_SECONDS = 15.0
"""How long the server holds a task's request for its action while nothing changes."""

RESULTS_CHANGED = (
    "The XCom differs from the results: values that it cannot hold (integers of more than 64 bits, strings"
    " with NUL, objects with keys that Airflow reserves) are replaced by their JSON text"
)
"""Log message if an XCom cannot hold the results unchanged."""


@dataclass(frozen=True)
class TaskCredentials:
    """Credentials of a task for its action.

    :param secret_key: task key of this action, hidden from ``repr``. The job never gets it
    """

    job_id: JobId
    secret_key: str = field(repr=False)


@keyword_dataclass
class ActionSpec(ActionOptions):
    """Specification of the action that a task registers.

    :param runner: name of the kind of runner
    :param adoptable: whether the job may outlive its worker, so that another process of the task adopts it
    :param takes_over: whether this try takes over the job of an earlier one; a resumed task always does
    :param traceparent: W3C trace context of the task
    :param service_name: the service whose method a webda job calls, with ``arguments``; set together with
        ``method``
    :param secrets: values that Airflow masks in the task's log, to be masked in the job's reports too; hidden
        from ``repr``
    """

    type: str
    runner: str
    arguments: JsonText = JsonText("{}")
    adoptable: bool = False
    takes_over: bool = True
    traceparent: str | None = None
    service_name: str | None = None
    method: str | None = None
    secrets: Sequence[str] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the ``spec`` of the body."""
        return {
            **options_to_json(self),
            "type": self.type,
            "runner": self.runner,
            "arguments": self.arguments,
            "adoptable": self.adoptable,
            "takesOver": self.takes_over,
            "traceparent": self.traceparent,
            "serviceName": self.service_name,
            "method": self.method,
            "secrets": list(self.secrets),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ActionSpec:
        """Parse what :meth:`to_json` returned.

        :raises MalformedRequest: a field is missing or invalid
        """
        service_name, method = _call(fields)
        return cls(
            type=replace_nul(typed_field(fields, "type", str))[:250],
            runner=replace_nul(typed_field(fields, "runner", str))[:50],
            arguments=_json_text(fields, "arguments"),
            **options_from_json(cls, fields),
            adoptable=optional_field(fields, "adoptable", bool) is True,
            takes_over=optional_field(fields, "takesOver", bool) is not False,
            traceparent=replace_nul(optional_field(fields, "traceparent", str) or "")[:55] or None,
            service_name=service_name,
            method=method,
            secrets=secrets_from_json(fields),
        )


class NeedsWorker(StrEnum):
    """When a deferred task needs a worker at its end."""

    ALWAYS = "always"  # for asset events, callbacks, an XCom backend, ...
    FOR_LOGS = "for_logs"  # unless the trigger saw the exit: it has then read the whole log
    ON_FAILURE = "on_failure"  # to raise the exception from which Airflow decides whether to retry


@keyword_dataclass
class Deferral:
    """Instructions for completing the deferred task of an action on the server.

    :param pushes_results: whether the results become the XCom ``return_value``
    """

    needs_worker: NeedsWorker
    pushes_results: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the body of ``POST /task/defer``."""
        return {"needsWorker": self.needs_worker.value, "pushesResults": self.pushes_results}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Deferral:
        """Parse what :meth:`to_json` returned.

        :raises MalformedRequest: a field is missing or invalid
        """
        return cls(
            needs_worker=enum_field(fields, "needsWorker", NeedsWorker),
            pushes_results=typed_field(fields, "pushesResults", bool),
        )


@keyword_dataclass
class TaskView:
    """An action as its task sees it.

    :param job: identity of the job, as reported by the runner
    :param exit: how the process or pod ended, as reported by the runner
    :param is_deferred: whether the task is deferred, so that the server completes it
    :param first_line: number of the first line of ``logs``
    :param has_more_logs: whether more lines are available now
    :param version: opaque text that differs after each change of the action. A task sends it back to wait
        for the next change. ``None`` except in responses to ``GET /task/action``
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
    version: str | None = field(default=None, compare=False)

    @property
    def is_skipped(self) -> bool:
        """Whether the action was skipped."""
        return is_skipped(self.state, self.error_name)

    @property
    def has_exit(self) -> bool:
        """Whether the runner has reported how the process or pod ended."""
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
        version: str | None = None,
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
            version=version,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the body of a response."""
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
            "version": self.version,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TaskView:
        """Parse what :meth:`to_json` returned."""
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
            version=fields.get("version"),
        )


def secrets_from_json(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Parse the secrets of a spec, or those that a task adds later. Older releases send none.

    :raises MalformedRequest: they are not a list of strings, or too many
    """
    secrets = fields.get("secrets", [])
    if not isinstance(secrets, list) or not all(isinstance(secret, str) for secret in secrets):
        raise MalformedRequest("secrets must be a list of strings", field="secrets")
    if len(secrets) > MAX_VALUES:
        raise MalformedRequest(f"secrets has more than {MAX_VALUES} values", field="secrets")
    return tuple(secrets)


def _json_text(fields: Mapping[str, Any], name: str) -> JsonText:
    text = typed_field(fields, name, str)
    try:
        loads(text)
    except NotJson as error:
        raise MalformedRequest(f"{name} is not JSON: {error}", field=name) from None
    return JsonText(text)


def _call(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    service_name, method = _name(fields, "serviceName"), _name(fields, "method")
    if (service_name is None) != (method is None):
        raise MalformedRequest("serviceName and method must be set together", field="method")
    return service_name, method


def _name(fields: Mapping[str, Any], name: str) -> str | None:
    value: str | None = optional_field(fields, name, str)
    if value is not None and not is_name(value):
        raise MalformedRequest(f"{name} must be 1 to {MAX_NAME_CHARS} printable characters", field=name)
    return value
