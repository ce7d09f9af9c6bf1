# SPDX-License-Identifier: Apache-2.0
"""Signed requests: authenticate the jobs and tasks that call this app.

Airflow does not authenticate requests to plugins. The store calls :meth:`SignedRequest.prove` once it has
read the action's row, so that authentication needs no extra query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar, cast

from flask import Request, g
from starlette.types import Scope

from airflow_asyncaction.exceptions import SignatureError
from airflow_asyncaction.protocol.actions import unix_ms
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import Report, parse_object, parse_report
from airflow_asyncaction.protocol.signing import (
    JOB_ID_HEADER,
    NONCE_HEADER,
    TIME_HEADER,
    V1_HEADER,
    V2_HEADER,
    Claim,
    Content,
    Scheme,
    read_claim,
    report_key,
    verify,
)
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.proof import Credentials, Unseal
from airflow_asyncaction.store.reports import Envelope
from airflow_asyncaction.store.secret import Secrets
from airflow_asyncaction.web.asgi import mounted_path
from airflow_asyncaction.web.raw_request import raw_path, raw_query, read_body

T = TypeVar("T")

# Used for unknown actions, so that their requests take the same time.
_SIGNATURE_HEADERS = {
    name.lower().encode(): name for name in (JOB_ID_HEADER, TIME_HEADER, NONCE_HEADER, V1_HEADER, V2_HEADER)
}
_NOBODY = Credentials(Secrets(job="nobody's", task="nobody's"), accept_v1=True)


class Caller(Enum):
    """Caller of a signed route. Each has its own secret, which is invalid for the other's routes."""

    JOB = (Scheme.V1, Scheme.V2)  # signs with the action's secret
    TASK = (Scheme.V2,)  # signs with the action's task key, which the job does not have

    def get_secret(self, secrets: Secrets) -> str:
        """Return the secret that this caller signs with."""
        return secrets.job if self is Caller.JOB else secrets.task


@dataclass(frozen=True)
class SignedRequest:
    """Request that claims to come from an action's job or task. Do not trust it before :meth:`prove`.

    :param caller: the expected caller
    :param now: time of the request, used for everything that it changes
    """

    claim: Claim
    content: Content
    caller: Caller
    settings: Settings
    now: datetime

    @property
    def action_id(self) -> JobId:
        """Id of the action, in lower case as in the database."""
        return JobId(self.claim.job_id.lower())

    @property
    def job_scheme(self) -> Scheme | None:
        """Signature scheme of the job; ``None`` if a task sent the request."""
        return self.claim.scheme if self.caller is Caller.JOB else None

    @property
    def envelope(self) -> Envelope:
        """Key, scheme and body of the report."""
        body = self.content.body
        return Envelope(report_key(self.claim, body), self.claim.scheme, body)

    def prove(self, credentials: Credentials | None) -> Credentials:
        """Verify the signature as :meth:`verify` does, and count the request against its sender's budget.

        :raises SignatureError: see :meth:`verify`
        """
        proven = self.verify(credentials)
        g.authenticated_bytes = len(self.content.body)  # see web.rate_limits
        return proven

    def verify(self, credentials: Credentials | None) -> Credentials:
        """Verify the signature with the action's credentials, and return them.

        :param credentials: ``None`` if the action does not exist
        :raises SignatureError: the signature is invalid. The message does not reveal why.
        """
        verify(
            self.claim,
            self.content,
            secret=self.caller.get_secret((credentials or _NOBODY).secrets),
            now_ms=unix_ms(self.now),
            max_skew_ms=int(self.settings.max_clock_skew.total_seconds() * 1000),
        )
        if credentials is None or not self._accepts_scheme(credentials):
            raise SignatureError
        return credentials

    def read_report(self, proven: Credentials) -> Report:
        """Parse the report of a job, with secrets masked.

        :raises MalformedRequest: the body is not a report
        :raises RequestTooLarge: it exceeds a limit
        """
        return parse_report(proven.masked(self.content.body), self.settings.limits, proven.masker)

    def unseal_with(self, parse: Callable[[dict[str, Any]], T]) -> Unseal[T]:
        """Return a function that verifies the request, then parses its JSON object."""

        def unseal(credentials: Credentials | None) -> T:
            self.prove(credentials)
            return parse(parse_object(self.content.body))

        return unseal

    def _accepts_scheme(self, credentials: Credentials) -> bool:
        if self.claim.scheme is Scheme.V1 and not (credentials.accept_v1 and self.settings.accept_v1):
            return False
        return self.claim.scheme in self.caller.value


def parse_signed_scope(scope: Scope, body: bytes, settings: Settings, caller: Caller) -> SignedRequest:
    """Parse an ASGI request to a signed route, before the Flask app may have to serve it.

    :param body: the whole body
    :raises SignatureError: the headers are malformed, or one is repeated
    """
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        known = _SIGNATURE_HEADERS.get(name)
        if known in headers:
            raise SignatureError(f"{known} is repeated")
        if known is not None:
            headers[known] = value.decode("latin-1")
    path = raw_path({"asgi.scope": scope, "PATH_INFO": mounted_path(scope)})
    content = Content(scope["method"], path, scope["query_string"], body)
    return SignedRequest(read_claim(headers), content, caller, settings, datetime.now(UTC))


def parse_signed_request(request: Request, settings: Settings, caller: Caller) -> SignedRequest:
    """Parse a request to a signed route.

    :param caller: the caller that the route belongs to
    :raises SignatureError: the headers are malformed
    """
    claim = read_claim(cast("Mapping[str, str]", request.headers))
    body = read_body(request, settings.limits.body_bytes)
    content = Content(request.method, raw_path(request.environ), raw_query(request.environ), body)
    return SignedRequest(claim, content, caller, settings, datetime.now(UTC))
