# SPDX-License-Identifier: Apache-2.0
"""Who calls. Airflow authenticates nothing for plugins: every route belongs to one of these callers.

A request is proven by the store, with :meth:`SignedRequest.prove`, where it reads the action's row anyhow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from flask import Request

from airflow_asyncaction.exceptions import SignatureError
from airflow_asyncaction.protocol.actions import unix_ms
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.signing import Claim, Content, Scheme, read_claim, report_key, verify
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.actions import Credentials
from airflow_asyncaction.store.reports import Envelope
from airflow_asyncaction.web.wire import raw_body, raw_path, raw_query

# Verified against when there is no such action, so that the answer takes the same work.
_NOBODY = Credentials(secret="nobody's", accept_v1=True)  # noqa: S106


@dataclass(frozen=True)
class SignedRequest:
    """A request that claims to be of an action's job or task. Nothing of it is used before :meth:`prove`.

    :param schemes: signatures that are taken for it
    :param now: the moment that the whole request is dated with
    """

    claim: Claim
    content: Content
    schemes: tuple[Scheme, ...]
    settings: Settings
    now: datetime

    @property
    def action_id(self) -> JobId:
        """The action it is about, as it is stored: a UUID may be spelt in upper case."""
        return JobId(self.claim.job_id.lower())

    @property
    def scheme(self) -> Scheme:
        """How it is signed."""
        return self.claim.scheme

    @property
    def envelope(self) -> Envelope:
        """How it came."""
        body = self.content.body
        return Envelope(report_key(self.claim, body), self.claim.scheme, body)

    def prove(self, credentials: Credentials | None) -> Credentials:
        """Prove that who sent it holds the action's secret, and return it.

        :raises SignatureError: it is not proven; the message does not tell why exactly
        """
        verify(
            self.claim,
            self.content,
            secret=(credentials or _NOBODY).secret,
            now_ms=unix_ms(self.now),
            max_skew_ms=int(self.settings.max_clock_skew.total_seconds() * 1000),
        )
        if credentials is None or not self._takes_scheme(credentials):
            raise SignatureError
        return credentials

    def _takes_scheme(self, credentials: Credentials) -> bool:
        if self.claim.scheme is Scheme.V1 and not (credentials.accept_v1 and self.settings.accept_v1):
            return False
        return self.claim.scheme in self.schemes


def job_request(request: Request, settings: Settings) -> SignedRequest:
    """Return a request to a route of jobs.

    :raises SignatureError: its headers are malformed
    """
    return _signed(request, settings, (Scheme.V1, Scheme.V2))


def task_request(request: Request, settings: Settings) -> SignedRequest:
    """Return a request to a route of tasks: they sign with their job's secret, and with v2 alone.

    :raises SignatureError: its headers are malformed
    """
    return _signed(request, settings, (Scheme.V2,))


def _signed(request: Request, settings: Settings, schemes: tuple[Scheme, ...]) -> SignedRequest:
    claim = read_claim(cast("Mapping[str, str]", request.headers))
    body = raw_body(request, settings.limits.body_bytes)
    content = Content(request.method, raw_path(request.environ), raw_query(request.environ), body)
    return SignedRequest(claim, content, schemes, settings, datetime.now(UTC))
