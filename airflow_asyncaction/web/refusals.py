# SPDX-License-Identifier: Apache-2.0
"""Every error as the protocol answers it: ``{"error": code, "message": what to do}``."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

from airflow_asyncaction.exceptions import (
    ActionNotFound,
    MalformedReport,
    RegistrationRefused,
    ReportTooLarge,
    SignatureError,
    StaleTime,
    StoreUnavailable,
)
from airflow_asyncaction.protocol.actions import unix_ms
from airflow_asyncaction.protocol.lifecycle import Refused

log = logging.getLogger(__name__)

_RETRY_AFTER_SECONDS = "2"
_REFUSED_STATUS = {"already_ended": 409, "nonce_reused": 409, "superseded": 410}
_REGISTRATION_STATUS = {"already_registered": 409, "no_such_task_instance": 404, "not_proven": 403}
_HTTP_CODES = {
    404: "no_such_route",
    405: "method_not_allowed",
    413: "too_large",
    429: "too_many",
}


class ReportRefused(Exception):
    """The lifecycle refused a report."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


def register_error_handlers(app: Flask) -> None:
    """Make the app answer every error as the protocol says."""
    app.register_error_handler(SignatureError, _signature)
    app.register_error_handler(MalformedReport, _malformed)
    app.register_error_handler(ReportTooLarge, lambda error: _body(413, error.code, str(error)))
    app.register_error_handler(ReportRefused, _refused)
    app.register_error_handler(RegistrationRefused, _registration)
    app.register_error_handler(ActionNotFound, lambda _: _signature(SignatureError()))
    app.register_error_handler(StoreUnavailable, _unavailable)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def _body(status: int, code: str, message: str, **more: object) -> Response:
    response = jsonify({"error": code, "message": message, **more})
    response.status_code = status
    return response


def _signature(error: SignatureError) -> Response:
    if isinstance(error, StaleTime):
        return _body(401, error.code, str(error), serverTime=unix_ms(datetime.now(UTC)))
    return _body(401, error.code, str(error))


def _malformed(error: MalformedReport) -> Response:
    return _body(400, error.code, str(error), field=error.field)


def _refused(error: ReportRefused) -> Response:
    return _body(_REFUSED_STATUS[error.refused.code], error.refused.code, error.refused.message)


def _registration(error: RegistrationRefused) -> Response:
    return _body(_REGISTRATION_STATUS[error.code], error.code, str(error))


def _unavailable(error: StoreUnavailable) -> Response:
    log.warning("The database does not answer: %s", type(error.__cause__).__name__)
    response = _body(503, "unavailable", "The database does not answer: send it again")
    response.headers["Retry-After"] = _RETRY_AFTER_SECONDS
    return response


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    response = _body(status, _HTTP_CODES.get(status, "bad_request"), error.description or error.name)
    for name, value in error.get_headers():
        if name.lower() in ("retry-after", "allow"):
            response.headers[name] = value
    if status == 413:
        response.headers["Connection"] = "close"  # the rest of the body is not read
    return response


def _unexpected(error: Exception) -> Response:
    log.error("A request failed", exc_info=error)
    return _body(500, "internal", "The server failed; its log says why")
