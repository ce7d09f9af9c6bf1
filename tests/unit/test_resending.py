# SPDX-License-Identifier: Apache-2.0
"""Resending: the table of PROTOCOL.md, for all clients that share the rule."""

from __future__ import annotations

import pytest

from airflow_asyncaction.exceptions import ServerError, ServerUnreachable, Superseded
from airflow_asyncaction.hooks.remote_api import UNVERIFIED
from airflow_asyncaction.protocol.resending import is_worth_resending, retry_after_seconds
from airflow_asyncaction.retrying import is_outage, is_transient, pause_seconds

TRANSIENT = {408, 429, *range(500, 600)}


def test_only_408_429_and_all_5xx_is_transient() -> None:
    assert {status for status in range(1000) if is_worth_resending(status)} == TRANSIENT


@pytest.mark.parametrize(("status", "code"), [(507, "no_space"), (500, "bad_schema")])
def test_an_error_that_somebody_must_fix_first_is_final(status: int, code: str) -> None:
    assert is_worth_resending(status)
    assert not is_worth_resending(status, code)
    assert not is_outage(ServerError(status=status, code=code))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 7 ", 7),
        ("-7", 0),
        ("7.5", 0),
        ("nan", 0),
        ("1e9", 0),
        ("\u0667", 0),
        ("9" * 400, 60),
        ("soon", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 60),
        ("Wed, 21 Oct 99999 07:28:00 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float) -> None:
    assert retry_after_seconds(header) == seconds


@pytest.mark.parametrize(
    ("error", "is_resent", "is_polled_on"),
    [
        (ServerUnreachable(), True, True),
        (ServerUnreachable(status=200), True, True),  # a page of somebody else
        (ServerError(status=500, code="internal"), True, True),
        (ServerError(status=408, code="too_slow"), True, True),
        (ServerError(status=404), False, True),  # the API server is up, and our plugin not yet
        (ServerError(code=UNVERIFIED), False, True),  # certificates are renewed
        (ServerError(status=404, code="no_such_route"), False, False),
        (ServerError(status=401, code="bad_signature"), False, False),
        (Superseded(status=410, code="superseded"), False, False),
    ],
    ids=lambda value: str(vars(value)) if isinstance(value, Exception) else None,
)
def test_errors_that_is_transient(error: ServerError, is_resent: bool, is_polled_on: bool) -> None:
    assert is_transient(error) is is_resent
    assert is_outage(error) is is_polled_on


@pytest.mark.parametrize(("failures", "longest"), [(1, 0.25), (2, 0.5), (3, 1.0), (7, 15.0), (10**6, 15.0)])
def test_pauses_double_up_to_a_limit_less_up_to_a_half(failures: int, longest: float) -> None:
    pauses = [pause_seconds(failures) for _ in range(200)]
    assert longest / 2 <= min(pauses) < max(pauses) <= longest


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), OSError()])
def test_errors_of_no_server_are_never_retried(error: BaseException) -> None:
    assert not is_transient(error)
    assert not is_outage(error)
