# SPDX-License-Identifier: Apache-2.0
"""Error responses of the API server and of the test server (PROTOCOL.md, section 3, responses)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_asyncaction.exceptions import (
    FileRefused,
    MalformedRequest,
    ProtocolError,
    RequestTooLarge,
    SignatureError,
    StaleTime,
)
from airflow_asyncaction.protocol.decisions import Refused

REPORT_STATUS: Mapping[str, int] = {"already_ended": 409, "nonce_reused": 409, "superseded": 410}
FILE_STATUS: Mapping[str, int] = {
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
HTTP_CODES: Mapping[int, str] = {
    404: "no_such_route",
    405: "method_not_allowed",
    413: "too_large",
    429: "too_many",
}


@dataclass(frozen=True)
class Refusal:
    """An error response."""

    status: int
    code: str
    message: str
    more: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": self.code, "message": self.message, **self.more}

    @classmethod
    def no_such_route(cls) -> Refusal:
        """Return the response to a request for an unknown path."""
        return cls(404, HTTP_CODES[404], "Unknown route. Check the path of JOB_HOOK")

    @classmethod
    def method_not_allowed(cls, allowed: Iterable[str]) -> Refusal:
        """Return the response to a method that the route does not support."""
        methods = ", ".join(allowed)
        return cls(405, HTTP_CODES[405], f"This route only supports {methods}", headers={"Allow": methods})

    @classmethod
    def of_report(cls, refused: Refused) -> Refusal:
        """Return the response to a refused report."""
        return cls(REPORT_STATUS[refused.code], refused.code, refused.message)

    @classmethod
    def of_file(cls, error: FileRefused) -> Refusal:
        """Return the response to a refused request about a file."""
        return cls(FILE_STATUS[error.code], error.code, str(error))

    @classmethod
    def of_request(cls, error: ProtocolError, *, server_time_ms: int) -> Refusal:
        """Return the response to a request with an invalid signature or body."""
        if isinstance(error, SignatureError):
            more = {"serverTime": server_time_ms} if isinstance(error, StaleTime) else {}
            return cls(401, error.code, str(error), more)
        if isinstance(error, MalformedRequest):
            return cls(400, error.code, str(error), {"field": error.field})
        return cls(413 if isinstance(error, RequestTooLarge) else 400, error.code, str(error))

    @classmethod
    def incomplete(cls) -> Refusal:
        """Return the response to an incomplete body. It only appears in the server's access log."""
        return cls(
            400, "incomplete", "The connection was closed before the end of the body. Resend the request"
        )

    @classmethod
    def too_slow(cls) -> Refusal:
        """Return the response to a body that arrived too slowly."""
        return cls(408, "too_slow", "The body arrived too slowly. Resend the request")

    @staticmethod
    def encode(fields: Mapping[str, Any]) -> bytes:
        """Serialize a body."""
        return json.dumps(fields, separators=(",", ":")).encode()
