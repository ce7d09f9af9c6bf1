# SPDX-License-Identifier: Apache-2.0
"""Reports: what a job may say, and its limits (PROTOCOL.md, 3, ``/status``)."""

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
"""Maximum length of the error and progress messages that a list shows."""
LARGEST_BODY_BYTES = 64 * 1024 * 1024
"""Most that a client sends, and that a server reads of a body which it refuses: so the refusal arrives."""
TAIL_LINES = 20
"""How many of its last output lines explain a job that failed without a word."""
MAX_TAIL_CHARS = MAX_MESSAGE_CHARS // 2
"""... and how many characters of them, from the end."""
SERVER_STREAM = "server"
"""The stream of lines that the API server has written itself into an action's log."""
MAX_TIME_MS = 10**14
"""In the year 5138."""

_MAX_NUMBER_CHARS = 32
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class ReportedStatus(StrEnum):
    """What a job may say of itself."""

    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"


@keyword_dataclass
class Limits:
    """How much one job may send.

    :param line_bytes: a longer log line is cut, and marked as cut
    :param max_log_lines: per action; the oldest are dropped and counted
    :param max_log_bytes: the same in bytes, as JSON in ASCII
    """

    body_bytes: int = 1024 * 1024
    report_log_lines: int = 1000
    line_bytes: int = 16 * 1024
    max_log_lines: int = 10_000
    max_log_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True)
class LogLine:
    """One log line as it is stored and shown.

    :param time_ms: Unix time, where the job gave it
    :param stream: ``stdout`` or ``stderr``, where the job has written this line there as well; or
        ``SERVER_STREAM``
    """

    message: str
    level: str = "INFO"
    time_ms: int | None = None
    stream: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the line as the protocol spells it, without what is absent."""
        line: dict[str, Any] = {"level": self.level, "message": self.message}
        if self.time_ms is not None:
            line["time"] = self.time_ms
        if self.stream is not None:
            line["stream"] = self.stream
        return line

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> LogLine:
        """Read what :meth:`to_json` wrote."""
        return cls(line["message"], line["level"], line.get("time"), line.get("stream"))


@keyword_dataclass
class Report:
    """One parsed report. ``None`` is absence: a reported JSON ``null`` is the text ``"null"``.

    :param progress: in the status details, 0 to 100
    :param message: in the status details, cut for lists
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
        """Whether it says nothing but that the job lives."""
        return self == Report()

    @property
    def is_terminal(self) -> bool:
        """Whether the job says that it is done."""
        return self.status in (ReportedStatus.SUCCESS, ReportedStatus.ERROR)


def parse(body: bytes, limits: Limits, masker: Masker = NO_SECRETS) -> Report:
    """Read a report from a request's body; an empty body is a heartbeat.

    :param masker: masks everything but ``results``, which become the XCom; before anything is cut
    :raises RequestTooLarge: more bytes or log lines than allowed
    :raises MalformedRequest: with the name of the field that is wrong
    """
    if len(body) > limits.body_bytes:
        raise RequestTooLarge(f"The body has more than {limits.body_bytes} bytes: send it in parts")
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
    """Read a body that must be a JSON object; an empty one is ``{}``.

    :raises MalformedRequest: it is not
    """
    if not body:
        return {}
    try:
        fields = strict_json.loads(body, max_values=strict_json.MAX_VALUES)
    except strict_json.NotJson as error:
        raise MalformedRequest(f"The body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise MalformedRequest("The body is not a JSON object")
    return fields


def _status(fields: Mapping[str, Any]) -> ReportedStatus | None:
    value = fields.get("status")
    if value is None:
        return None
    try:
        return ReportedStatus(value)
    except ValueError:
        raise MalformedRequest("status is not RUNNING, SUCCESS or ERROR", field="status") from None


def progress_of(details: Any) -> tuple[float | None, Any]:
    """Return the progress (0 to 100) and the message in a job's ``statusDetails``, as far as it told them."""
    progress, message = details, None
    if isinstance(details, dict):
        progress, message = details.get("progress"), details.get("message")
    is_number = isinstance(progress, (int, float)) and not isinstance(progress, bool)
    return progress if is_number else None, message


def _status_details(
    fields: Mapping[str, Any], masker: Masker
) -> tuple[JsonText | None, float | None, str | None]:
    """Return the status details, and what lists show of them: the progress and the message."""
    if "statusDetails" not in fields:
        return None, None, None
    details = fields["statusDetails"]
    if isinstance(details, dict) and "progress" in details:
        details = {**details, "progress": _unquoted(details["progress"])}
    progress, _ = progress_of(details)
    if progress is not None:
        if not 0 <= progress <= 100:
            raise MalformedRequest("progress is outside 0..100", field="statusDetails")
    elif isinstance(details, dict) and details.get("progress") is not None:
        raise MalformedRequest("progress is not a number", field="statusDetails")
    masked = masker.json(details)
    _, message = progress_of(masked)
    listed = None if message is None else printable(str(message))[:MAX_LISTED_CHARS]
    return strict_json.dumps(masked), progress, listed


def _unquoted(value: Any) -> Any:
    """Return the number that a string holds: some languages quote a number that was once used as text."""
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
        raise MalformedRequest("agent is not an object", field="agent")
    return strict_json.dumps(masker.json(fields["agent"]))


def _text(fields: Mapping[str, Any], name: str, max_chars: int, masker: Masker) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise MalformedRequest(f"{name} is not a string", field=name)
    return printable(masker.text(value))[:max_chars]


def _logs(fields: Mapping[str, Any], limits: Limits, masker: Masker) -> tuple[LogLine, ...]:
    lines = fields.get("logs")
    if lines is None:
        return ()
    if not isinstance(lines, list):
        raise MalformedRequest("logs is not a list", field="logs")
    if len(lines) > limits.report_log_lines:
        raise RequestTooLarge(f"logs has more than {limits.report_log_lines} lines: send them in parts")
    return tuple(_log_line(line, limits, masker) for line in lines)


def _log_line(line: Any, limits: Limits, masker: Masker) -> LogLine:
    if isinstance(line, str):
        return LogLine(cut_line(printable(masker.line(line)), limits.line_bytes))
    if not isinstance(line, dict) or not isinstance(line.get("message"), str):
        raise MalformedRequest("a log line is neither a string nor an object with a message", field="logs")
    level, time_ms, stream = line.get("level", "INFO"), _unquoted(line.get("time")), line.get("stream")
    if not isinstance(level, str):
        raise MalformedRequest("a log line's level is not a string", field="logs")
    if time_ms is not None and not _is_time(time_ms):
        raise MalformedRequest("a log line's time is not a Unix time in ms", field="logs")
    return LogLine(
        cut_line(printable(masker.line(line["message"])), limits.line_bytes),
        printable(level)[:MAX_LEVEL_CHARS].upper(),
        None if time_ms is None else int(time_ms),
        stream if stream in ("stdout", "stderr") else None,
    )


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_TIME_MS


def printable(text: str) -> str:
    """Return the text without NUL, which PostgreSQL does not store."""
    return text.replace("\0", "�")


def well_formed(text: str) -> str:
    """Return the text without NUL and lone surrogates: databases reject the former, UTF-8 the latter."""
    return printable(text if text.isascii() else text.encode("utf-8", "replace").decode())


def kept_tail(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the last lines of output, cut to what an error message shows.

    :returns: at most ``TAIL_LINES`` lines with ``MAX_TAIL_CHARS`` characters, from the end
    """
    kept: list[str] = []
    room = MAX_TAIL_CHARS
    for line in reversed(lines[-TAIL_LINES:]):
        if room <= 0:
            break
        kept.append(line[-room:])
        room -= len(line) + 1  # with the newline before it
    return tuple(reversed(kept))


def is_name(value: object) -> bool:
    """Tell whether a value can be a name: text of 1 to MAX_NAME_CHARS printable characters."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and value.isprintable()


def cut_mark(size_bytes: int) -> str:
    """Return what stands at the end of a line that had so many bytes."""
    return f" [cut: the line has {size_bytes} bytes]"


def cut_line(text: str, max_bytes: int) -> str:
    """Return a line of at most ``max_bytes`` in UTF-8, marked if it was cut."""
    if len(text) * 4 <= max_bytes:
        return text
    octets = text.encode("utf-8", "replace")
    if len(octets) <= max_bytes:
        return text
    mark = cut_mark(len(octets))
    return octets[: max(0, max_bytes - len(mark))].decode("utf-8", "ignore") + mark
