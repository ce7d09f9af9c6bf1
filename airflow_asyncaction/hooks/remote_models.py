# SPDX-License-Identifier: Apache-2.0
"""What another deployment says of its operations, actions, log lines and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airflow_asyncaction.protocol.actions import State, is_skipped
from airflow_asyncaction.protocol.reports import MAX_NAME_CHARS, MAX_TIME_MS, LogLine, well_formed

Fields = Mapping[str, Any]

_LARGEST_LINE = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class RemoteOperation:
    """One operation that may be launched.

    :param input: JSON Schema of its arguments, if they have one
    :param output: JSON Schema of its results, likewise
    """

    id: str
    type: str
    description: str | None = None
    input: Any = None
    output: Any = None
    permission: str | None = None
    is_paused: bool = False

    @classmethod
    def from_json(cls, id_: str, fields: Fields) -> RemoteOperation:
        """Read one entry of ``GET /?full=true``."""
        return cls(
            id=id_,
            type=str(fields.get("type") or id_),
            description=fields.get("description"),
            input=fields.get("input"),
            output=fields.get("output"),
            permission=fields.get("permission"),
            is_paused=bool(fields.get("isPaused")),
        )


@dataclass(frozen=True, kw_only=True)
class RemoteAction:
    """One action as it stands there.

    :param uuid: its id; ``""`` where a webda server did not say it
    :param state: as the action's own page shows it
    :param is_done: whether nothing more is to come: its logs are complete as well
    :param results: any JSON value; ``None`` as well if there are none (yet), or in a list
    :param progress: in percent
    :param next_attempt: the action of the next try there, if this one has failed and that one is there
    :param is_final: whether no other try is to follow
    :param fields: everything, as it came
    """

    uuid: str
    type: str
    state: State
    is_done: bool
    stop_reason: str | None = None
    results: Any = None
    error_name: str | None = None
    error_message: str | None = None
    progress: float | None = None
    message: str | None = None
    next_attempt: str | None = None
    is_final: bool = True
    created_at: datetime | None = None
    scheduled_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    fields: Fields = field(default_factory=dict, repr=False)

    @property
    def is_skipped(self) -> bool:
        """Whether it was skipped, by its job or by Airflow: it did not fail."""
        return is_skipped(self.state, self.error_name)

    @classmethod
    def from_json(cls, fields: Fields) -> RemoteAction:
        """Read an action.

        :raises ValueError: it is none
        """
        state = State(fields["status"])
        return cls(
            uuid=_id(fields["uuid"]),
            type=str(fields["type"]),
            state=state,
            is_done=bool(fields.get("isDone", state.is_end)),
            stop_reason=_text(fields.get("stopReason")),
            results=fields.get("results"),
            error_name=_text(fields.get("errorName")),
            error_message=_text(fields.get("errorMessage")),
            progress=_number(fields.get("progress")),
            message=_text(fields.get("message")),
            next_attempt=None if fields.get("nextAttempt") is None else _id(fields["nextAttempt"]),
            is_final=bool(fields.get("isFinal", True)),
            created_at=_moment(fields.get("createdAt")),
            scheduled_at=_moment(fields.get("scheduledAt")),
            started_at=_moment(fields.get("startedAt")),
            ended_at=_moment(fields.get("endedAt")),
            fields=fields,
        )


@dataclass(frozen=True, kw_only=True)
class RemoteLogs:
    """Some log lines of an action. Lines are numbered from 1.

    :param first_line: number of the first of these; lines that are missing before it were dropped
    :param last_line: number of the last of these, or of the last that was asked for
    """

    lines: tuple[LogLine, ...] = ()
    first_line: int = 1
    last_line: int = 0
    has_more: bool = False

    @classmethod
    def from_json(cls, fields: Fields, *, after: int) -> RemoteLogs:
        """Read what ``/logs`` answers.

        :param after: the line after which was asked
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
        """Read the ``logs`` of a webda action: its last lines, which have no numbers."""
        lines = tuple(_line(message) for message in messages or ())[after:]
        return cls(lines=lines, first_line=after + 1, last_line=after + len(lines))


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of an action.

    :param role: ``"input"`` or ``"output"``
    :param hash: md5 of the content, in hex
    """

    property: str
    index: int
    role: str
    name: str
    size_bytes: int
    mimetype: str
    hash: str
    sha256: str | None = None
    metadata: Fields = field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: Fields) -> RemoteFile:
        """Read one entry of ``/files``."""
        return cls(
            property=str(fields["property"]),
            index=int(fields["index"]),
            role=str(fields["role"]),
            name=str(fields["name"]),
            size_bytes=int(fields["size"]),
            mimetype=str(fields.get("mimetype") or "application/octet-stream"),
            hash=str(fields["hash"]),
            sha256=_text(fields.get("sha256")),
            metadata=fields.get("metadata") or {},
        )


@dataclass(frozen=True, kw_only=True)
class Position:
    """How much of an action was seen.

    :param line: number of the last log line
    :param report: id of the last report
    :param etag: of the last look
    """

    line: int = 0
    report: int = 0
    etag: str | None = None


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at an action has shown that was not seen before.

    :param action: ``None``: nothing is new
    """

    position: Position
    action: RemoteAction | None = None
    logs: RemoteLogs = RemoteLogs()

    @property
    def is_whole(self) -> bool:
        """Whether all of this action was seen: another try may follow."""
        return self.action is not None and self.action.is_done and not self.logs.has_more

    @property
    def is_last(self) -> bool:
        """Whether nothing more is to come."""
        return self.is_whole and self.action is not None and self.action.is_final

    @property
    def next_attempt(self) -> str | None:
        """The action to go on with, once all of this one was seen."""
        return self.action.next_attempt if self.is_whole and self.action is not None else None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is expected for a while: it is scheduled, or may be retried later."""
        is_scheduled = self.action is not None and self.action.state is State.SCHEDULED
        return is_scheduled or (self.is_whole and self.next_attempt is None)

    @property
    def has_more(self) -> bool:
        """Whether there is more to see at once."""
        return self.logs.has_more or self.next_attempt is not None


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Which of the tries is looked at, and how much of it was seen."""

    action_id: str
    position: Position = Position()

    def after(self, look: Look) -> Watch:
        """Return what is to be looked at next."""
        if look.next_attempt is not None:
            return Watch(action_id=look.next_attempt)
        return Watch(action_id=self.action_id, position=look.position)


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


def _id(value: Any) -> str:
    """Return an action's id such that XComs and triggers' events can hold it, whatever it is there."""
    return well_formed(str(value))[:MAX_NAME_CHARS]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _moment(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
