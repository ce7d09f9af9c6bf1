# SPDX-License-Identifier: Apache-2.0
"""Responses of the API server, and which of them are transient (PROTOCOL.md, section 3, resending).

All clients parse responses with this module, whatever their HTTP library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from airflow_asyncaction.exceptions import ServerError

_TLS_HANG_UPS = frozenset(
    {"SSLEOFError", "SSLZeroReturnError"}
)  # names, since a Python may be built without ssl
_TRANSIENT = frozenset({408, 429})
_SERVER_ERRORS = range(500, 600)
_MAX_RETRY_AFTER_SECONDS = 60.0
_FINAL_CODES = frozenset({"bad_schema", "no_space"})  # permanent until somebody fixes the cause
_MAX_SERVER_TIME_MS = 10**15
_MAX_TEXT_CHARS = 500


@dataclass(frozen=True)
class ServerResponse:
    """One response.

    :param headers: with names in lower case
    """

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def value(self) -> Any:
        """The JSON value of the body; ``None`` if it has none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def fields(self) -> dict[str, Any] | None:
        """The JSON object of the body; ``None`` if it is anything else, such as a proxy's error page."""
        value = self.value
        return value if isinstance(value, dict) else None

    @property
    def error(self) -> tuple[str, str]:
        """``error`` and ``message`` of the body; each ``""`` if it is missing."""
        return error_of(self.fields)

    @property
    def is_transient(self) -> bool:
        """Whether the request may succeed if it is resent."""
        return is_worth_resending(self.status, self.error[0])

    @property
    def retry_after_seconds(self) -> float:
        """Seconds to wait before the next request; 0 if the server does not say."""
        return retry_after_seconds(self.headers.get("retry-after"))

    def clock_offset_ms(self, now_ms: int) -> int | None:
        """Return how far the local clock is behind the server's, if that is why the request was refused."""
        if self.status != HTTPStatus.UNAUTHORIZED or self.error[0] != "stale_time":
            return None
        server_time = (self.fields or {}).get("serverTime")
        if type(server_time) is not int or not 0 < server_time < _MAX_SERVER_TIME_MS:
            return None
        return server_time - now_ms


def is_worth_resending(status: int, code: str = "") -> bool:
    """Return whether a request with this response may succeed if it is resent.

    :param code: ``error`` of the response body
    """
    return (status in _TRANSIENT or status in _SERVER_ERRORS) and code not in _FINAL_CODES


def retry_after_seconds(retry_after: str | None) -> float:
    """Parse a Retry-After header: seconds or a date, at most 60 s. Return 0 for anything else."""
    text = (retry_after or "").strip()
    try:
        if text.isascii() and text.isdigit():
            wanted = float(text)
        else:
            until = parsedate_to_datetime(text)
            wanted = (until.astimezone(timezone.utc) - datetime.now(timezone.utc)).total_seconds()
    except (ValueError, OverflowError, TypeError, IndexError):
        return 0.0
    return min(max(wanted, 0.0), _MAX_RETRY_AFTER_SECONDS)


def error_of(fields: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return ``error`` and ``message`` of a response's object, each ``""`` if it is missing."""
    code, message = (fields or {}).get("error"), (fields or {}).get("message")
    return (
        code[:_MAX_TEXT_CHARS] if isinstance(code, str) else "",
        message[:_MAX_TEXT_CHARS] if isinstance(message, str) else "",
    )


def too_large(size_bytes: int, reason: str) -> ServerError:
    """Return the error for a request whose body the server did not accept."""
    message = (
        f"The request has {size_bytes} bytes, which is too large ([asyncaction] max_body_bytes): {reason}"
    )
    return ServerError(message, status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, code="too_large")


def is_hang_up(error: BaseException | None) -> bool:
    """Return whether an error, or one that it wraps, means that the peer closed the connection."""
    while error is not None:
        if isinstance(error, ConnectionError) or type(error).__name__ in _TLS_HANG_UPS:
            return not isinstance(error, ConnectionRefusedError)
        wrapped = (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
        error = next((each for each in wrapped if isinstance(each, BaseException)), None)
    return False
