# SPDX-License-Identifier: Apache-2.0
"""Reports: their fields, limits and parsing (PROTOCOL.md, section 3, ``/status``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_asyncaction.exceptions import MalformedRequest, RequestTooLarge
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.compat import StrEnum, keyword_dataclass
from airflow_asyncaction.protocol.masking import NO_SECRETS, Masker
from airflow_asyncaction.protocol.strict_json import JsonText

MAX_NAME_CHARS = 250
MAX_MESSAGE_CHARS = 16 * 1024
MAX_LEVEL_CHARS = 16
MAX_LISTED_CHARS = 300
"""Maximum length of error and progress messages in lists."""
LARGEST_BODY_BYTES = 64 * 1024 * 1024
"""Maximum size of bodies that clients send. A server reads up to this much of a body that it refuses."""
TAIL_LINES = 20
"""Number of last output lines in the error message of a job that failed without a report."""
MAX_TAIL_CHARS = MAX_MESSAGE_CHARS // 2
"""Maximum number of characters in these lines, from the end."""
SERVER_STREAM = "server"
"""Stream of log lines that the API server wrote."""
MAX_TIME_MS = 10**14
"""Latest time of a log line, in the year 5138."""

_MAX_NUMBER_CHARS = 32
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class ReportedStatus(StrEnum):
    """Status that a job may report."""

    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"


@keyword_dataclass
class Limits:
    """Limits of a report, and of the log lines of an action.

    :param report_log_lines: log lines per report
    :param line_bytes: longer log lines are cut, and marked as cut
    :param max_log_lines: log lines per action; the oldest are dropped and counted
    :param max_log_bytes: size of these lines as ASCII JSON, likewise
    """

    body_bytes: int = 1024 * 1024
    report_log_lines: int = 1000
    line_bytes: int = 16 * 1024
    max_log_lines: int = 10_000
    max_log_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True)
class LogLine:
    """One log line as it is stored and displayed.

    :param time_ms: Unix time, if reported
    :param stream: ``stdout`` or ``stderr`` if the job has also written this line there, or
        ``SERVER_STREAM``
    """

    message: str
    level: str = "INFO"
    time_ms: int | None = None
    stream: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the line in the protocol's JSON form, without missing fields."""
        line: dict[str, Any] = {"level": self.level, "message": self.message}
        if self.time_ms is not None:
            line["time"] = self.time_ms
        if self.stream is not None:
            line["stream"] = self.stream
        return line

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> LogLine:
        """Parse what :meth:`to_json` returned."""
        return cls(line["message"], line["level"], line.get("time"), line.get("stream"))


@keyword_dataclass
class Report:
    """A parsed report. Missing fields are ``None``; a reported JSON ``null`` is the text ``"null"``.

    :param progress: from the status details, 0 to 100
    :param message: from the status details, cut for lists
    """

    status: ReportedStatus | None = None
    status_details: JsonText | None = None
    progress: float | None = None
    message: str | None = None
    results: JsonText | None = None
    error_name: str | None = None
    error_message: str | None = None
    logs: tuple[LogLine, ...] = ()
    agent: JsonText | None = None

    @property
    def is_heartbeat(self) -> bool:
        """Whether the report is empty."""
        return self == Report()

    @property
    def is_terminal(self) -> bool:
        """Whether the report ends the job."""
        return self.status in (ReportedStatus.SUCCESS, ReportedStatus.ERROR)


def parse_report(body: bytes, limits: Limits, masker: Masker = NO_SECRETS) -> Report:
    """Parse the body of a report. An empty body is a heartbeat.

    :param masker: masks all fields except ``results``, which become the XCom, before anything is cut
    :raises RequestTooLarge: the body or the number of log lines exceeds a limit
    :raises MalformedRequest: a field is invalid
    """
    if len(body) > limits.body_bytes:
        raise RequestTooLarge(
            f"The body is larger than {limits.body_bytes} bytes. Send several smaller reports"
        )
    fields = parse_object(body)
    status_details, progress, message = _status_details(fields, masker)
    return Report(
        status=_status(fields),
        status_details=status_details,
        progress=progress,
        message=message,
        results=_any_json(fields, "results"),
        error_name=_text(fields, "errorName", MAX_NAME_CHARS, masker),
        error_message=_text(fields, "errorMessage", MAX_MESSAGE_CHARS, masker),
        logs=_logs(fields, limits, masker),
        agent=_agent(fields, masker),
    )


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a body that must be a JSON object. An empty body is ``{}``.

    :raises MalformedRequest: the body is something else
    """
    if not body:
        return {}
    try:
        fields = strict_json.loads(body, max_values=strict_json.MAX_VALUES)
    except strict_json.NotJson as error:
        raise MalformedRequest(f"The body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise MalformedRequest("The body must be a JSON object")
    return fields


def _status(fields: Mapping[str, Any]) -> ReportedStatus | None:
    value = fields.get("status")
    if value is None:
        return None
    try:
        return ReportedStatus(value)
    except ValueError:
        raise MalformedRequest("status must be RUNNING, SUCCESS or ERROR", field="status") from None


def find_progress(details: Any) -> tuple[float | None, Any]:
    """Return the progress (0 to 100) and the message in ``statusDetails``, each ``None`` if missing."""
    progress, message = details, None
    if isinstance(details, dict):
        progress, message = details.get("progress"), details.get("message")
    is_number = isinstance(progress, (int, float)) and not isinstance(progress, bool)
    return progress if is_number else None, message


def _status_details(
    fields: Mapping[str, Any], masker: Masker
) -> tuple[JsonText | None, float | None, str | None]:
    """Return the status details, and the progress and the message in them for lists."""
    if "statusDetails" not in fields:
        return None, None, None
    details = fields["statusDetails"]
    if isinstance(details, dict) and "progress" in details:
        details = {**details, "progress": _unquoted(details["progress"])}
    progress, _ = find_progress(details)
    if progress is not None:
        if not 0 <= progress <= 100:
            raise MalformedRequest("progress must be from 0 to 100", field="statusDetails")
    elif isinstance(details, dict) and details.get("progress") is not None:
        raise MalformedRequest("progress must be a number", field="statusDetails")
    masked = masker.json(details)
    _, message = find_progress(masked)
    listed = None if message is None else replace_nul(str(message))[:MAX_LISTED_CHARS]
    return strict_json.dumps(masked), progress, listed


def _unquoted(value: Any) -> Any:
    """Convert a quoted number: some languages quote a number once it has been used as a string."""
    if not isinstance(value, str) or len(value) > _MAX_NUMBER_CHARS or not _NUMBER.fullmatch(value):
        return value
    number = float(value)
    return int(number) if number.is_integer() else number


def _any_json(fields: Mapping[str, Any], name: str) -> JsonText | None:
    return strict_json.dumps(fields[name]) if name in fields else None


def _agent(fields: Mapping[str, Any], masker: Masker) -> JsonText | None:
    if fields.get("agent") is None:
        return None
    if not isinstance(fields["agent"], dict):
        raise MalformedRequest("agent must be an object", field="agent")
    return strict_json.dumps(masker.json(fields["agent"]))


def _text(fields: Mapping[str, Any], name: str, max_chars: int, masker: Masker) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise MalformedRequest(f"{name} must be a string", field=name)
    return replace_nul(masker.text(value))[:max_chars]


def _logs(fields: Mapping[str, Any], limits: Limits, masker: Masker) -> tuple[LogLine, ...]:
    lines = fields.get("logs")
    if lines is None:
        return ()
    if not isinstance(lines, list):
        raise MalformedRequest("logs must be a list", field="logs")
    if len(lines) > limits.report_log_lines:
        raise RequestTooLarge(f"logs has more than {limits.report_log_lines} lines. Send several reports")
    return tuple(_log_line(line, limits, masker) for line in lines)


def _log_line(line: Any, limits: Limits, masker: Masker) -> LogLine:
    if isinstance(line, str):
        return LogLine(cut_line(replace_nul(masker.line(line)), limits.line_bytes))
    if not isinstance(line, dict) or not isinstance(line.get("message"), str):
        raise MalformedRequest("A log line must be a string or an object with a message", field="logs")
    level, time_ms, stream = line.get("level", "INFO"), _unquoted(line.get("time")), line.get("stream")
    if not isinstance(level, str):
        raise MalformedRequest("The level of a log line must be a string", field="logs")
    if time_ms is not None and not _is_time(time_ms):
        raise MalformedRequest("The time of a log line must be a Unix time in ms", field="logs")
    return LogLine(
        cut_line(replace_nul(masker.line(line["message"])), limits.line_bytes),
        replace_nul(level)[:MAX_LEVEL_CHARS].upper(),
        None if time_ms is None else int(time_ms),
        stream if stream in ("stdout", "stderr") else None,
    )


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_TIME_MS


def replace_nul(text: str) -> str:
    """Replace NUL, which PostgreSQL cannot store."""
    return text.replace("\0", "�")


def replace_unstorable(text: str) -> str:
    """Replace NUL, which PostgreSQL cannot store, and lone surrogates, which UTF-8 cannot encode."""
    return replace_nul(text if text.isascii() else text.encode("utf-8", "replace").decode())


def cut_tail(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the last lines of output that fit into an error message.

    :returns: at most ``TAIL_LINES`` lines with ``MAX_TAIL_CHARS`` characters, from the end
    """
    kept: list[str] = []
    room = MAX_TAIL_CHARS
    for line in reversed(lines[-TAIL_LINES:]):
        if room <= 0:
            break
        kept.append(line[-room:])
        room -= len(line) + 1  # and the newline before it
    return tuple(reversed(kept))


def is_name(value: object) -> bool:
    """Return whether a value is a valid name: 1 to ``MAX_NAME_CHARS`` printable characters."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and value.isprintable()


def cut_mark(size_bytes: int) -> str:
    """Return the mark at the end of a line that was cut, with its original size."""
    return f" [cut: the line has {size_bytes} bytes]"


def cut_line(text: str, max_bytes: int) -> str:
    """Cut a line to ``max_bytes`` of UTF-8, and mark it if it was cut."""
    if len(text) * 4 <= max_bytes:
        return text
    octets = text.encode("utf-8", "replace")
    if len(octets) <= max_bytes:
        return text
    mark = cut_mark(len(octets))
    return octets[: max(0, max_bytes - len(mark))].decode("utf-8", "ignore") + mark
