# SPDX-License-Identifier: Apache-2.0
"""Error handlers: turn each exception into the protocol's ``{"error": code, "message": what to do}``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, make_response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from airflow_asyncaction.exceptions import (
    ActionAdopted,
    ActionNotFound,
    FileRefused,
    FileStoreUnavailable,
    ProtocolError,
    RegistrationRefused,
    SecretUnreadable,
    SignatureError,
    StoreUnavailable,
    UserRefused,
)
from airflow_asyncaction.protocol.actions import unix_ms
from airflow_asyncaction.protocol.decisions import Refused
from airflow_asyncaction.protocol.refusals import HTTP_CODES, Refusal
from airflow_asyncaction.protocol.signing import JOB_ID_HEADER

log = logging.getLogger(__name__)

_RETRY_AFTER = {"Retry-After": "2"}
_CLOSE = {"Connection": "close"}  # the rest of the body stays unread

_REGISTRATION_STATUS = {
    "already_registered": 409,
    "no_such_task_instance": 404,
    "not_proven": 403,
    "stopped": 409,
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


class ReportRefused(Exception):
    """The lifecycle refused a report."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


def register_error_handlers(app: Flask) -> None:
    """Make an app respond to all exceptions as the protocol specifies."""
    app.register_error_handler(Exception, _respond)
    app.register_error_handler(HTTPException, _respond)  # otherwise Flask handles routing errors itself


def to_refusal(error: BaseException) -> Refusal:
    """Return the response to an exception. Unexpected exceptions are logged."""
    for error_type, convert in _CONVERTERS.items():
        if isinstance(error, error_type):
            return convert(error)
    log.error("Request failed", exc_info=error)
    return Refusal(500, "internal", "Internal server error. See the log of the server")


def _respond(error: Exception) -> Response:
    refusal = to_refusal(error)
    return make_response(refusal.fields, refusal.status, refusal.headers)


def _request(error: ProtocolError) -> Refusal:
    return Refusal.of_request(error, server_time_ms=unix_ms(datetime.now(UTC)))


def _user_refused(error: UserRefused) -> Refusal:
    headers = {"WWW-Authenticate": "Bearer"} if error.code == "not_signed_in" else {}
    return Refusal(_USER_STATUS[error.code], error.code, str(error), error.more, headers)


def _file_store(error: FileStoreUnavailable) -> Refusal:
    if error.is_full:
        return Refusal(507, "no_space", str(error))
    return Refusal(503, "file_store_unavailable", str(error), headers=_RETRY_AFTER)


def _registration(error: RegistrationRefused) -> Refusal:
    return Refusal(_REGISTRATION_STATUS[error.code], error.code, str(error))


def _unavailable(error: StoreUnavailable) -> Refusal:
    message, cause = str(error).removesuffix("."), error.__cause__
    log.warning("%s%s", message, "" if cause is None else f" ({type(cause).__name__})")
    return Refusal(503, "unavailable", message, headers=_RETRY_AFTER)


def _unreadable(error: SecretUnreadable) -> Refusal:
    log.error("%s Check that all API servers have the same [core] fernet_key.", error)
    return Refusal(503, "unavailable", "This server cannot decrypt the action's secret", headers=_RETRY_AFTER)


def _method_not_allowed(error: MethodNotAllowed) -> Refusal:
    """Refuse a method. The launch route matches any path of one segment, but jobs cannot use it."""
    is_operation = request.path.count("/") == 1 and list(error.valid_methods or ()) == ["PUT"]
    if is_operation and JOB_ID_HEADER in request.headers:
        return Refusal.no_such_route()
    return _http(error)


def _http(error: HTTPException) -> Refusal:
    status = error.code or 500
    headers = {name: value for name, value in error.get_headers() if name.lower() in ("retry-after", "allow")}
    if status == 413:
        headers |= _CLOSE
    return Refusal(
        status, HTTP_CODES.get(status, "bad_request"), error.description or error.name, headers=headers
    )


_CONVERTERS: dict[type[BaseException], Callable[[Any], Refusal]] = {
    ActionAdopted: lambda error: Refusal(410, "superseded", str(error)),
    ActionNotFound: lambda _: _request(SignatureError()),
    ProtocolError: _request,
    ReportRefused: lambda error: Refusal.of_report(error.refused),
    UserRefused: _user_refused,
    FileRefused: Refusal.of_file,
    FileStoreUnavailable: _file_store,
    RegistrationRefused: _registration,
    SecretUnreadable: _unreadable,
    StoreUnavailable: _unavailable,
    MethodNotAllowed: _method_not_allowed,
    HTTPException: _http,
}
