# SPDX-License-Identifier: Apache-2.0
"""Operations, actions, log lines and files of another deployment, parsed from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from airflow_asyncaction.protocol.actions import State, is_skipped
from airflow_asyncaction.protocol.reports import MAX_NAME_CHARS, MAX_TIME_MS, LogLine, replace_unstorable

Fields = Mapping[str, Any]

_LARGEST_LINE = 2**31 - 1


def _id(value: Any) -> str:
    """Return an action's id in a form that XComs and trigger events can hold."""
    return replace_unstorable(str(value))[:MAX_NAME_CHARS]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


# Other versions, and webda, may use other JSON types.
Id = Annotated[str, BeforeValidator(_id)]
OptionalId = Annotated[str | None, BeforeValidator(lambda value: None if value is None else _id(value))]
Text = Annotated[str, BeforeValidator(_text)]
OptionalText = Annotated[str | None, BeforeValidator(_text)]
Flag = Annotated[bool, BeforeValidator(bool)]


class RemoteModel(BaseModel):
    """Base of what another deployment returns: unknown fields are ignored, names are in camelCase there."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, validate_by_name=True)


class RemoteOperation(RemoteModel):
    """One operation that the connection's user may launch.

    :param input: JSON Schema of its arguments, if it has one
    :param output: JSON Schema of its results, if it has one
    """

    id: str
    type: Text
    description: OptionalText = None
    input: Any = None
    output: Any = None
    permission: OptionalText = None
    is_paused: Flag = False

    @classmethod
    def from_json(cls, id_: str, fields: Fields) -> RemoteOperation:
        """Parse one entry of ``GET /?full=true``.

        :raises ValueError: it is invalid
        """
        return cls.model_validate({**fields, "id": id_, "type": fields.get("type") or id_})


class RemoteAction(RemoteModel):
    """One action at the time of the response.

    :param uuid: its id; ``""`` if a webda server did not return it
    :param state: the state that the UI of the other deployment shows
    :param is_done: whether it has ended, and its logs are complete
    :param results: any JSON value; ``None`` also if there are none (yet), or in a list of actions
    :param progress: in percent
    :param next_attempt: the action of its retry, if it failed and the retry exists
    :param is_final: whether it will not be retried
    :param fields: the JSON object as it was received
    """

    uuid: Id
    type: Text
    state: State = Field(validation_alias="status")
    is_done: Flag
    stop_reason: OptionalText = None
    results: Any = None
    error_name: OptionalText = None
    error_message: OptionalText = None
    progress: Annotated[float | None, BeforeValidator(_number)] = None
    message: OptionalText = None
    next_attempt: OptionalId = None
    is_final: Flag = True
    created_at: datetime | None = None
    scheduled_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    fields: Fields = Field(repr=False)

    @property
    def is_skipped(self) -> bool:
        """Whether its job or Airflow skipped it: it did not fail."""
        return is_skipped(self.state, self.error_name)

    @classmethod
    def from_json(cls, fields: Fields) -> RemoteAction:
        """Parse an action.

        :raises ValueError: it is invalid
        """
        is_end = State(fields["status"]).is_end
        return cls.model_validate({"isDone": is_end, **fields, "fields": fields})


class RemoteFile(RemoteModel):
    """One file of an action.

    :param role: ``"input"`` or ``"output"``
    :param hash: md5 of the content, in hex
    """

    property: Text
    index: int
    role: Text
    name: Text
    size_bytes: int = Field(validation_alias="size")
    mimetype: Text = "application/octet-stream"
    hash: Text
    sha256: OptionalText = None
    metadata: Fields = Field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: Fields) -> RemoteFile:
        """Parse one entry of ``/files``.

        :raises ValueError: it is invalid
        """
        return cls.model_validate({name: value for name, value in fields.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class RemoteLogs:
    """Some log lines of an action. Lines are numbered from 1.

    :param first_line: number of the first one; lines missing before it were discarded
    :param last_line: number of the last one; if there are none, of the line after which they were requested
    """

    lines: tuple[LogLine, ...] = ()
    first_line: int = 1
    last_line: int = 0
    has_more: bool = False

    @classmethod
    def from_json(cls, fields: Fields, *, after: int) -> RemoteLogs:
        """Parse a response of ``/logs``.

        :param after: the line after which they were requested
        """
        lines = tuple(_line(line) for line in fields["lines"])
        first = min(int(fields.get("firstLine") or after + 1), _LARGEST_LINE)
        return cls(
            lines=lines,
            first_line=first,
            last_line=max(after, first + len(lines) - 1) if lines else after,
            has_more=bool(fields.get("hasMore")),
        )

    @classmethod
    def from_list(cls, messages: Any, *, after: int) -> RemoteLogs:
        """Parse the ``logs`` of a webda action: its last lines, without numbers."""
        lines = tuple(_line(message) for message in messages or ())[after:]
        return cls(lines=lines, first_line=after + 1, last_line=after + len(lines))


@dataclass(frozen=True, kw_only=True)
class Position:
    """How much of an action was seen.

    :param line: number of the last log line
    :param report: id of the last report
    :param etag: of the last response
    """

    line: int = 0
    report: int = 0
    etag: str | None = None


@dataclass(frozen=True, kw_only=True)
class PollResult:
    """News about an action that one poll returned.

    :param action: ``None`` if nothing is new
    """

    position: Position
    action: RemoteAction | None = None
    logs: RemoteLogs = RemoteLogs()

    @property
    def is_complete(self) -> bool:
        """Whether this action is done, and all of it was seen. It may be retried."""
        return self.action is not None and self.action.is_done and not self.logs.has_more

    @property
    def is_last(self) -> bool:
        """Whether no more changes will follow."""
        return self.is_complete and self.action is not None and self.action.is_final

    @property
    def next_attempt(self) -> str | None:
        """The retry to follow, once all of this action was seen."""
        return self.action.next_attempt if self.is_complete and self.action is not None else None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is expected for a while: it is scheduled, or may be retried later."""
        is_scheduled = self.action is not None and self.action.state is State.SCHEDULED
        return is_scheduled or (self.is_complete and self.next_attempt is None)

    @property
    def has_more(self) -> bool:
        """Whether there is more to fetch immediately."""
        return self.logs.has_more or self.next_attempt is not None


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Which action to poll next, of an operation and its retries, and how much of it was seen."""

    action_id: str
    position: Position = Position()

    def after(self, result: PollResult) -> Watch:
        """Return what to poll next."""
        if result.next_attempt is not None:
            return Watch(action_id=result.next_attempt)
        return Watch(action_id=self.action_id, position=result.position)


def _line(line: Any) -> LogLine:
    if not isinstance(line, Mapping):
        return LogLine(str(line))
    time_ms = line.get("time")
    return LogLine(
        str(line.get("message", "")),
        str(line.get("level") or "INFO"),
        time_ms if isinstance(time_ms, int) and 0 < time_ms <= MAX_TIME_MS else None,
        _text(line.get("stream")),
    )
