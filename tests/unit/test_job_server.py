# SPDX-License-Identifier: Apache-2.0
"""Test server: follows PROTOCOL.md, checked with a client that violates it."""

from __future__ import annotations

import json
import secrets
import time
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

import pytest

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.digests import digests
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
        tested.info.hook_url + path, data=body or None, headers=headers, method=method
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
    assert set(fields) == {"error", "message"} | ({"field"} if code == "malformed" else set())


def test_ends_and_a_newer_attempt(tested: TestedJob) -> None:
    assert v2(tested, b'{"status":"SUCCESS"}', nonce="a" * 16)[0] == 200
    assert v2(tested, b'{"status":"SUCCESS"}', nonce="b" * 16)[0] == 200
    status, fields = v2(tested, b'{"status":"ERROR"}', nonce="c" * 16)
    assert (status, fields["error"]) == (409, "already_ended")
    tested.supersede()
    status, fields = v2(tested, b"", nonce="d" * 16)
    assert (status, fields["error"]) == (410, "superseded")
    assert tested.action.state is State.SUCCESS


def test_a_stale_time_is_refused_with_the_servers_time(server: JobServer, tested: TestedJob) -> None:
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


def announce(
    tested: TestedJob, content: bytes, *, path: str = "", **change: Any
) -> tuple[int, dict[str, Any]]:
    known = digests([content])
    body = {"hash": known.md5, "challenge": known.challenge, "metadata": {}, "name": "m", **change}
    path = path or f"/upload/default/{tested.info.job_id}/model"
    return v2(tested, json.dumps(body).encode(), path=path, method="PUT", nonce=secrets.token_hex(8))


def send_content(url: str, content: bytes) -> int:
    request = urllib.request.Request(url, data=content, method="PUT")  # noqa: S310 - our own server
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_file_is_announced_sent_and_attached(server: JobServer, tested: TestedJob) -> None:
    status, fields = announce(tested, b"model")
    assert (status, fields["done"], fields["index"], fields["complete"]) == (200, False, 0, False)
    assert tested.files == {}
    assert send_content(fields["url"], b"model") == 200
    assert [file.content for file in tested.files["model"]] == [b"model"]
    assert announce(tested, b"model") == (200, {"done": True, "index": 0})
    assert announce(server.new_job(), b"model") == (200, {"done": True, "index": 0})


@pytest.mark.parametrize("change", [{}, {"size": 6}, {"sha256": "0" * 64}, {"challenge": "0" * 32}])
def test_a_content_that_is_not_as_announced_is_not_attached(
    tested: TestedJob, change: dict[str, Any]
) -> None:
    _, fields = announce(tested, b"model", **change)
    assert send_content(fields["url"], b"model" if change else b"other") == 412
    assert tested.files == {}
    assert send_content(fields["url"], b"model") == 404  # it was discarded, and must be announced again


def test_urls_of_contents_can_expire(server: JobServer, tested: TestedJob) -> None:
    _, fields = announce(tested, b"model")
    server.expire_urls()
    assert send_content(fields["url"], b"model") == 403
    assert announce(tested, b"model")[1]["url"] != fields["url"]


def test_refused_announcements(server: JobServer, tested: TestedJob) -> None:
    assert announce(tested, b"m", name="../m")[0] == 400
    assert announce(tested, b"m", hash="x")[0] == 400
    theirs = f"/upload/default/{server.new_job().info.job_id}/model"
    status, fields = announce(tested, b"m", path=theirs)
    assert (status, fields["error"]) == (403, "not_yours")
    own = f"/upload/default/{tested.info.job_id}/model"
    assert v2(tested, b"[]", path=own, method="PUT")[1]["error"] == "malformed"
    assert v2(tested, path=own + "/0/complete", nonce="o" * 16)[1]["error"] == "no_such_file"
    assert announce(tested, b"m", path=own + "-x")[1]["field"] == "property"


def test_a_direct_upload_counts_once_it_is_completed() -> None:
    with JobServer(direct_uploads=True) as server:
        tested = server.new_job()
        complete = f"/upload/default/{tested.info.job_id}/model/0/complete"
        _, fields = announce(tested, b"model")
        assert fields["complete"]
        assert v2(tested, path=complete, nonce="a" * 16)[1]["error"] == "content_missing"
        assert send_content(fields["url"], b"other") == 200
        assert v2(tested, path=complete, nonce="b" * 16)[1]["error"] == "hash_mismatch"
        assert send_content(announce(tested, b"model")[1]["url"], b"model") == 200
        assert tested.files == {}
        status, fields = v2(tested, path=complete, nonce="c" * 16)
        assert (status, fields["done"], fields["Map"]["name"]) == (200, True, "m")
        assert tested.files["model"][0].content == b"model"
