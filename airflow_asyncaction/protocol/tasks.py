# SPDX-License-Identifier: Apache-2.0
"""What a task and the API server say to each other about an action.

Not part of PROTOCOL.md: both ends are of one release of this package. During an upgrade, the server is newer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, Union

from airflow_asyncaction.exceptions import MalformedReport
from airflow_asyncaction.protocol.actions import (
    Action,
    ActionOptions,
    State,
    StopReason,
    Verb,
    is_skipped,
)
from airflow_asyncaction.protocol.compat import StrEnum, assert_never, keyword_dataclass
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Launched, Stop
from airflow_asyncaction.protocol.masking import MAX_VALUES, Masker
from airflow_asyncaction.protocol.options import options_from_json, options_to_json
from airflow_asyncaction.protocol.reports import (
    MAX_MESSAGE_CHARS,
    MAX_NAME_CHARS,
    LogLine,
    is_name,
    kept_tail,
    printable,
)
from airflow_asyncaction.protocol.strict_json import JsonText, NotJson, loads

E = TypeVar("E", bound=StrEnum)

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

Word = Union[Launched, Exit, Stop, Abandon]
"""What a runner may say of a job."""


@dataclass(frozen=True)
class TaskCredentials:
    """Signs the requests of an action's task.

    :param secret_key: the task key of this action alone, which its job never gets; not shown by ``repr``
    """

    job_id: JobId
    secret_key: str = field(repr=False)


@keyword_dataclass
class ActionSpec(ActionOptions):
    """What a task asks for.

    :param runner: name of the kind of runner
    :param adoptable: whether the job may outlive its worker: then another process of the task adopts it
    :param takes_over: whether this try takes over the job of an earlier one; whoever resumes a task does
    :param traceparent: W3C trace context of the task
    :param service_name: the service whose method a webda job calls, with ``arguments``; given with ``method``
    :param secrets: what Airflow masks in the task's log, to be masked in what the job reports; not shown by
        ``repr``
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
        """Return the body's ``spec``."""
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
        """Read what :meth:`to_json` wrote.

        :raises MalformedReport: it did not
        """
        service_name, method = _call(fields)
        return cls(
            type=printable(_typed(fields, "type", str))[:250],
            runner=printable(_typed(fields, "runner", str))[:50],
            arguments=_json_text(fields, "arguments"),
            **options_from_json(cls, fields),
            adoptable=_optional(fields, "adoptable", bool) is True,
            takes_over=_optional(fields, "takesOver", bool) is not False,
            traceparent=printable(_optional(fields, "traceparent", str) or "")[:55] or None,
            service_name=service_name,
            method=method,
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
            needs_worker=_enum(fields, "needsWorker", NeedsWorker),
            pushes_results=_typed(fields, "pushesResults", bool),
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


def masked_word(word: Word, masker: Masker) -> Word:
    """Return a runner's word without the secrets that it may quote."""
    if isinstance(word, Launched):
        return Launched(masker.json(dict(word.job)))
    if isinstance(word, Exit):
        message = None if word.message is None else masker.text(word.message)
        return replace(word, message=message, tail=tuple(map(masker.line, word.tail)))
    return word


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


def word_to_json(word: Word) -> dict[str, Any]:
    """Return a runner's word as a body."""
    if isinstance(word, Launched):
        return {"word": "launched", "job": dict(word.job)}
    if isinstance(word, Exit):
        return {"word": "exit", **vars(word), **_shortened(word)}
    if isinstance(word, Stop):
        return {"word": "stop", "reason": word.reason.value}
    if not isinstance(word, Abandon):
        assert_never(word)
    return {"word": "abandon"}


def _shortened(exit_: Exit) -> dict[str, Any]:
    """Return the texts of an exit, cut to what the server keeps: a job may print, or raise, any amount."""
    return {
        "reason": _cut(exit_.reason, MAX_NAME_CHARS),
        "message": _cut(exit_.message, MAX_MESSAGE_CHARS),
        "tail": list(kept_tail(exit_.tail)),
    }


def _cut(text: str | None, max_chars: int) -> str | None:
    return None if text is None else text[:max_chars]


def word_from_json(fields: Mapping[str, Any]) -> Word:
    """Read what :func:`word_to_json` wrote.

    :raises MalformedReport: it did not
    """
    word = _typed(fields, "word", str)
    if word == "launched":
        return Launched(_typed(fields, "job", dict))
    if word == "exit":
        return _exit(fields)
    if word == "stop":
        return Stop(_enum(fields, "reason", StopReason))
    if word == "abandon":
        return Abandon()
    raise MalformedReport("word is not launched, exit, stop or abandon", field="word")


def _exit(fields: Mapping[str, Any]) -> Exit:
    tail = _typed(fields, "tail", list)
    return Exit(
        code=_optional(fields, "code", int),
        signal=_optional(fields, "signal", str),
        reason=_cut(_optional(fields, "reason", str), MAX_NAME_CHARS),
        message=_cut(_optional(fields, "message", str), MAX_MESSAGE_CHARS),
        tail=tuple(line for line in tail if isinstance(line, str)),
        is_seen=_optional(fields, "is_seen", bool) is not False,
        is_skip=_optional(fields, "is_skip", bool) is True,
    )


def _typed(fields: Mapping[str, Any], name: str, type_: type[Any]) -> Any:
    value = fields.get(name)
    if not isinstance(value, type_) or (type_ is int and isinstance(value, bool)):
        raise MalformedReport(f"{name} is not of type {type_.__name__}", field=name)
    return value


def _json_text(fields: Mapping[str, Any], name: str) -> JsonText:
    text = _typed(fields, name, str)
    try:
        loads(text)
    except NotJson as error:
        raise MalformedReport(f"{name} is not JSON: {error}", field=name) from None
    return JsonText(text)


def _optional(fields: Mapping[str, Any], name: str, type_: type[Any]) -> Any:
    return None if fields.get(name) is None else _typed(fields, name, type_)


def _call(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    service_name, method = _name(fields, "serviceName"), _name(fields, "method")
    if (service_name is None) != (method is None):
        raise MalformedReport("serviceName and method must be given together", field="method")
    return service_name, method


def _name(fields: Mapping[str, Any], name: str) -> str | None:
    value: str | None = _optional(fields, name, str)
    if value is not None and not is_name(value):
        raise MalformedReport(f"{name} must be 1 to {MAX_NAME_CHARS} printable characters", field=name)
    return value


def _enum(fields: Mapping[str, Any], name: str, enum: type[E]) -> E:
    try:
        return enum(str(fields.get(name)))
    except ValueError:
        raise MalformedReport(f"{name} is none of {', '.join(enum)}", field=name) from None
