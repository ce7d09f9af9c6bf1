# SPDX-License-Identifier: Apache-2.0
"""Who calls. Airflow authenticates nothing for plugins: every route belongs to one of these callers.

A request is proven by the store, with :meth:`SignedRequest.prove`, where it reads the action's row anyhow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import cast

from flask import Request

from airflow_asyncaction.exceptions import SignatureError
from airflow_asyncaction.protocol.actions import unix_ms
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.signing import Claim, Content, Scheme, read_claim, report_key, verify
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.proof import Credentials
from airflow_asyncaction.store.reports import Envelope
from airflow_asyncaction.store.secret import Secrets
from airflow_asyncaction.web.budgets import note_proven
from airflow_asyncaction.web.raw_request import raw_body, raw_path, raw_query

# Verified against when there is no such action, so that the answer takes the same work.
_NOBODY = Credentials(Secrets(job="nobody's", task="nobody's"), accept_v1=True)


class Caller(Enum):
    """Who may send a request. Each signs with a secret of its own, which does not open the other's routes."""

    JOB = (Scheme.V1, Scheme.V2)  # with the action's secret
    TASK = (Scheme.V2,)  # with the action's task key, which the job does not have

    def secret_in(self, secrets: Secrets) -> str:
        """Return what this caller signs with."""
        return secrets.job if self is Caller.JOB else secrets.task


@dataclass(frozen=True)
class SignedRequest:
    """A request that claims to be of an action's job or task. Nothing of it is used before :meth:`prove`.

    :param caller: whose it must be
    :param now: the moment that the whole request is dated with
    """

    claim: Claim
    content: Content
    caller: Caller
    settings: Settings
    now: datetime

    @property
    def action_id(self) -> JobId:
        """The action it is about, as it is stored: a UUID may be spelt in upper case."""
        return JobId(self.claim.job_id.lower())

    @property
    def job_scheme(self) -> Scheme | None:
        """How the job has signed it; ``None`` if it is not the job's."""
        return self.claim.scheme if self.caller is Caller.JOB else None

    @property
    def envelope(self) -> Envelope:
        """How it came."""
        body = self.content.body
        return Envelope(report_key(self.claim, body), self.claim.scheme, body)

    def prove(self, credentials: Credentials | None) -> Credentials:
        """Prove that its sender holds the caller's secret of the action, and return what proves it.

        :raises SignatureError: it is not proven; the message does not tell why exactly
        """
        verify(
            self.claim,
            self.content,
            secret=self.caller.secret_in((credentials or _NOBODY).secrets),
            now_ms=unix_ms(self.now),
            max_skew_ms=int(self.settings.max_clock_skew.total_seconds() * 1000),
        )
        if credentials is None or not self._takes_scheme(credentials):
            raise SignatureError
        note_proven(len(self.content.body))
        return credentials

    def _takes_scheme(self, credentials: Credentials) -> bool:
        if self.claim.scheme is Scheme.V1 and not (credentials.accept_v1 and self.settings.accept_v1):
            return False
        return self.claim.scheme in self.caller.value


def job_request(request: Request, settings: Settings) -> SignedRequest:
    """Return a request to a route of jobs.

    :raises SignatureError: its headers are malformed
    """
    return _signed(request, settings, Caller.JOB)


def task_request(request: Request, settings: Settings) -> SignedRequest:
    """Return a request to a route of tasks: they sign with the action's task key, and with v2 alone.

    :raises SignatureError: its headers are malformed
    """
    return _signed(request, settings, Caller.TASK)


def _signed(request: Request, settings: Settings, caller: Caller) -> SignedRequest:
    claim = read_claim(cast("Mapping[str, str]", request.headers))
    body = raw_body(request, settings.limits.body_bytes)
    content = Content(request.method, raw_path(request.environ), raw_query(request.environ), body)
    return SignedRequest(claim, content, caller, settings, datetime.now(UTC))
