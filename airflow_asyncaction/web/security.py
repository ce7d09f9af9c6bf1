# SPDX-License-Identifier: Apache-2.0
"""Who calls. Airflow authenticates nothing for plugins: every route belongs to one of these callers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from flask import Request

from airflow_asyncaction.exceptions import SignatureError
from airflow_asyncaction.protocol.actions import unix_ms
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.signing import Claim, Content, Scheme, read_claim, report_key, verify
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.actions import Actions, Credentials, Envelope
from airflow_asyncaction.web.wire import raw_body, raw_path, raw_query

# Verified against when there is no such action, so that the answer takes the same work.
_NOBODY = Credentials(secret="nobody's", accept_v1=True)


@dataclass(frozen=True)
class Caller:
    """Somebody who proved to hold an action's secret: its job, or its task.

    :param now: the moment that the whole request is dated with
    """

    action_id: JobId
    envelope: Envelope
    now: datetime


def authenticate_job(request: Request, actions: Actions, settings: Settings) -> Caller:
    """Prove a request that a job sent.

    :raises SignatureError: it is not from a job of ours; the message does not tell why exactly
    """
    return _authenticate(request, actions, settings, schemes=(Scheme.V1, Scheme.V2))


def authenticate_task(request: Request, actions: Actions, settings: Settings) -> Caller:
    """Prove a request that the worker of an action sent, with its job's secret.

    :raises SignatureError: it did not
    """
    return _authenticate(request, actions, settings, schemes=(Scheme.V2,))


def _authenticate(
    request: Request, actions: Actions, settings: Settings, schemes: tuple[Scheme, ...]
) -> Caller:
    claim = read_claim(request.headers)
    body = raw_body(request, settings.limits.body_bytes)
    now = datetime.now(UTC)
    content = Content(request.method, raw_path(request.environ), raw_query(request.environ), body)
    credentials = actions.credentials(claim.job_id)
    verify(
        claim,
        content,
        secret=(credentials or _NOBODY).secret,
        now_ms=unix_ms(now),
        max_skew_ms=int(settings.max_clock_skew.total_seconds() * 1000),
    )
    if credentials is None or claim.scheme not in schemes or not _accepts(claim, credentials, settings):
        raise SignatureError()
    return Caller(claim.job_id, Envelope(report_key(claim, body), claim.scheme, body), now)


def _accepts(claim: Claim, credentials: Credentials, settings: Settings) -> bool:
    return claim.scheme is Scheme.V2 or (credentials.accept_v1 and settings.accept_v1)
