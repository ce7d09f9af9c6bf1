# SPDX-License-Identifier: Apache-2.0
"""The server that ships for tests keeps to PROTOCOL.md, seen from a client that does not."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

import pytest

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.signing import (
    JOB_ID_HEADER,
    TIME_HEADER,
    V1_HEADER,
    Content,
    sign_v1,
    signed_headers,
)
from airflow_asyncaction.testing import JobServer, TestedJob


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def call(
    tested: TestedJob, method: str, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, dict[str, Any], dict[str, str]]:
    request = urllib.request.Request(  # noqa: S310 - http:// of our own server
        tested.info.hook + path, data=body or None, headers=headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)


def v2(
    tested: TestedJob,
    body: bytes = b"",
    *,
    nonce: str = "n" * 16,
    path: str = "/status",
    method: str = "POST",
) -> tuple[int, dict[str, Any]]:
    content = Content(method, path, "", body)
    headers = signed_headers(tested.info, content, time_ms=now_ms(), nonce=nonce)
    return call(tested, method, path, body, headers)[:2]


def v1(tested: TestedJob, body: bytes, *, time_text: str | None = None) -> tuple[int, dict[str, Any]]:
    text = time_text or str(now_ms())
    headers = {
        JOB_ID_HEADER: tested.info.job_id,
        TIME_HEADER: text,
        V1_HEADER: sign_v1(tested.info.secret_key, text),
    }
    return call(tested, "POST", "/status", body, headers)[:2]


@pytest.mark.parametrize("path", ["/status", ""])
def test_both_routes_take_reports(tested: TestedJob, path: str) -> None:
    status, fields = v2(tested, b'{"status":"SUCCESS","results":false}', path=path)
    assert (status, fields["status"], fields["results"]) == (200, "SUCCESS", False)


def test_the_action_can_be_asked_for(server: JobServer) -> None:
    tested = server.new_job([1], type="etl.load", attempt=2)
    status, fields = v2(tested, method="GET", path="/job")
    assert (status, fields["arguments"], fields["type"], fields["attempt"]) == (200, [1], "etl.load", 2)
    assert tested.info.secret_key not in json.dumps(fields)


def test_v1_is_taken_until_a_v2_signature_came(tested: TestedJob) -> None:
    assert v1(tested, b"{}")[0] == 200
    assert v2(tested)[0] == 200
    assert v1(tested, b"{}") == (
        401,
        {"error": "bad_signature", "message": str(v1(tested, b"")[1]["message"])},
    )


def test_v1_may_be_switched_off(server: JobServer) -> None:
    assert v1(server.new_job(accept_v1=False), b"{}")[0] == 401


def test_replays_are_known_by_nonce_or_under_v1_by_time_and_body(server: JobServer) -> None:
    new, old = server.new_job(), server.new_job()
    body, other = b'{"logs":["a"]}', b'{"logs":["b"]}'
    assert [v2(new, body)[0], v2(new, body)[0], v2(new, other)[0]] == [200, 200, 409]
    assert v2(new, other)[1]["error"] == "nonce_reused"
    text = str(now_ms())
    assert [v1(old, b, time_text=text)[0] for b in (body, body, other)] == [200, 200, 200]
    assert [line.message for line in new.logs] == ["a"]
    assert [line.message for line in old.logs] == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[]", 400, "malformed"),
        (b'{"statusDetails":101}', 400, "malformed"),
        (json.dumps({"logs": ["x"] * 1001}).encode(), 413, "too_large"),
        (b" " * (1024 * 1024 + 1), 413, "too_large"),
    ],
)
def test_refusals(tested: TestedJob, body: bytes, status: int, code: str) -> None:
    got, fields = v2(tested, body)
    assert (got, fields["error"]) == (status, code)
    assert set(fields) == {"error", "message"}


def test_ends_and_a_newer_attempt(tested: TestedJob) -> None:
    assert v2(tested, b'{"status":"SUCCESS"}', nonce="a" * 16)[0] == 200
    assert v2(tested, b'{"status":"SUCCESS"}', nonce="b" * 16)[0] == 200
    status, fields = v2(tested, b'{"status":"ERROR"}', nonce="c" * 16)
    assert (status, fields["error"]) == (409, "already_ended")
    tested.supersede()
    status, fields = v2(tested, b"", nonce="d" * 16)
    assert (status, fields["error"]) == (410, "superseded")
    assert tested.action.state is State.SUCCESS


def test_a_stale_time_is_told_the_servers(server: JobServer, tested: TestedJob) -> None:
    server.clock_offset = timedelta(days=1)
    status, fields = v2(tested)
    assert (status, fields["error"]) == (401, "stale_time")
    assert abs(fields["serverTime"] - now_ms() - 86_400_000) < 60_000


@pytest.mark.parametrize(
    "change",
    [{JOB_ID_HEADER: "00000000-0000-4000-8000-000000000000"}, {TIME_HEADER: "x"}, {JOB_ID_HEADER: ""}],
)
def test_whoever_is_not_known_gets_401(tested: TestedJob, change: dict[str, str]) -> None:
    headers = signed_headers(tested.info, Content("POST", "/status"), time_ms=now_ms(), nonce="n" * 16)
    status, fields, _ = call(tested, "POST", "/status", b"", {**headers, **change})
    assert (status, fields["error"]) == (401, "bad_signature")
    assert tested.requests == []


def test_a_paused_server_says_when_to_come_again(server: JobServer, tested: TestedJob) -> None:
    server.pause(retry_after_seconds=7)
    status, fields, headers = call(tested, "POST", "/status", b"", {})
    assert (status, set(fields), headers["Retry-After"]) == (503, {"error", "message"}, "7")


def test_a_condition_never_met_is_a_timeout(tested: TestedJob) -> None:
    with pytest.raises(TimeoutError):
        tested.wait_until(lambda tested: tested.reports, timeout_seconds=0.01)
