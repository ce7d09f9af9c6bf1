# SPDX-License-Identifier: Apache-2.0
"""Every error as the protocol answers it: ``{"error": code, "message": what to do}``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from airflow_asyncaction.exceptions import (
    ActionAdopted,
    ActionNotFound,
    FileRefused,
    FileStoreUnavailable,
    MalformedReport,
    RegistrationRefused,
    ReportTooLarge,
    SecretUnreadable,
    SignatureError,
    StaleTime,
    StoreUnavailable,
    UserRefused,
)
from airflow_asyncaction.protocol.actions import unix_ms
from airflow_asyncaction.protocol.lifecycle import Refused

log = logging.getLogger(__name__)

_RETRY_AFTER = {"Retry-After": "2"}
_CLOSE = {"Connection": "close"}  # the rest of the body is not read

_REFUSED_STATUS = {"already_ended": 409, "nonce_reused": 409, "superseded": 410}
_REGISTRATION_STATUS = {
    "already_registered": 409,
    "no_such_task_instance": 404,
    "not_proven": 403,
    "stopped": 409,
}
_FILE_STATUS = {
    "already_ended": 409,
    "bad_token": 403,
    "content_lost": 404,
    "content_missing": 409,
    "hash_mismatch": 412,
    "no_such_file": 404,
    "no_such_store": 404,
    "not_yours": 403,
    "property_taken": 409,
    "superseded": 410,
    "too_large": 413,
    "too_many_files": 409,
    "too_slow": 408,
}
_USER_STATUS = {
    "already_ended": 409,
    "bad_schema": 500,
    "csrf": 403,
    "forbidden": 403,
    "idempotency_key_reused": 422,
    "invalid_input": 400,
    "malformed": 400,
    "no_airflow": 503,
    "no_such_action": 404,
    "no_such_file": 404,
    "no_such_operation": 404,
    "not_signed_in": 401,
    "run_refused": 409,
}
_HTTP_CODES = {
    404: "no_such_route",
    405: "method_not_allowed",
    413: "too_large",
    429: "too_many",
}


@dataclass(frozen=True)
class Refusal:
    """The answer to a request that failed."""

    status: int
    code: str
    message: str
    more: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """The body."""
        return {"error": self.code, "message": self.message, **self.more}

    @classmethod
    def method_not_allowed(cls, allowed: Iterable[str]) -> Refusal:
        """Return the answer to a method that a route has not."""
        methods = ", ".join(allowed)
        return cls(405, _HTTP_CODES[405], f"The methods are {methods}", headers={"Allow": methods})

    @staticmethod
    def incomplete() -> Refusal:
        """Return the answer to a body that ends too early. Only the server's access log sees it."""
        return Refusal(400, "incomplete", "The connection was closed before the body ended: send it again")

    @staticmethod
    def encode(fields: dict[str, Any]) -> bytes:
        """Return a body as it is sent."""
        return json.dumps(fields, separators=(",", ":")).encode()


class ReportRefused(Exception):
    """The lifecycle refused a report."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


def register_error_handlers(app: Flask) -> None:
    """Make the app answer every error as the protocol says."""
    app.register_error_handler(Exception, _response)
    app.register_error_handler(HTTPException, _response)  # else Flask would not hand routing errors on


def refusal_of(error: BaseException) -> Refusal:
    """Return what an error is answered with; one that nobody has foreseen is logged."""
    for kind, answer in _ANSWERS.items():
        if isinstance(error, kind):
            return answer(error)
    log.error("A request failed", exc_info=error)
    return Refusal(500, "internal", "The server failed; its log says why")


def _response(error: Exception) -> Response:
    refusal = refusal_of(error)
    return Response(
        Refusal.encode(refusal.fields), refusal.status, refusal.headers, content_type="application/json"
    )


def _signature(error: SignatureError) -> Refusal:
    more = {"serverTime": unix_ms(datetime.now(UTC))} if isinstance(error, StaleTime) else {}
    return Refusal(401, error.code, str(error), more)


def _malformed(error: MalformedReport) -> Refusal:
    return Refusal(400, error.code, str(error), {"field": error.field})


def _report_refused(error: ReportRefused) -> Refusal:
    return Refusal(_REFUSED_STATUS[error.refused.code], error.refused.code, error.refused.message)


def _user_refused(error: UserRefused) -> Refusal:
    headers = {"WWW-Authenticate": "Bearer"} if error.code == "not_signed_in" else {}
    return Refusal(_USER_STATUS[error.code], error.code, str(error), error.more, headers)


def _file_refused(error: FileRefused) -> Refusal:
    return Refusal(_FILE_STATUS[error.code], error.code, str(error))


def _file_store(error: FileStoreUnavailable) -> Refusal:
    if error.is_full:
        return Refusal(507, "no_space", str(error))
    return Refusal(503, "file_store_unavailable", str(error), headers=_RETRY_AFTER)


def _registration(error: RegistrationRefused) -> Refusal:
    return Refusal(_REGISTRATION_STATUS[error.code], error.code, str(error))


def _unavailable(error: StoreUnavailable) -> Refusal:
    log.warning("The database does not answer: %s", type(error.__cause__).__name__)
    return Refusal(503, "unavailable", "The database does not answer: send it again", headers=_RETRY_AFTER)


def _unreadable(error: SecretUnreadable) -> Refusal:
    log.error("%s Is it the same on all API servers?", error)
    return Refusal(503, "unavailable", "This server cannot read the action's secret", headers=_RETRY_AFTER)


def _http(error: HTTPException) -> Refusal:
    status = error.code or 500
    headers = {name: value for name, value in error.get_headers() if name.lower() in ("retry-after", "allow")}
    if status == 413:
        headers |= _CLOSE
    return Refusal(
        status, _HTTP_CODES.get(status, "bad_request"), error.description or error.name, headers=headers
    )


_ANSWERS: dict[type[BaseException], Callable[[Any], Refusal]] = {
    SignatureError: _signature,
    ActionAdopted: lambda error: Refusal(410, "superseded", str(error)),
    ActionNotFound: lambda _: _signature(SignatureError()),
    MalformedReport: _malformed,
    ReportTooLarge: lambda error: Refusal(413, error.code, str(error)),
    ReportRefused: _report_refused,
    UserRefused: _user_refused,
    FileRefused: _file_refused,
    FileStoreUnavailable: _file_store,
    RegistrationRefused: _registration,
    SecretUnreadable: _unreadable,
    StoreUnavailable: _unavailable,
    HTTPException: _http,
}
