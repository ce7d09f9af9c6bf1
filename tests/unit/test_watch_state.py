# SPDX-License-Identifier: Apache-2.0
"""Watch state: changes, resume positions and delays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction.runners.pods.api_requests import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    PodRequests,
    parse_response,
)
from airflow_asyncaction.runners.pods.watch import WatchState

GONE = ClusterRefused("too old resource version", status=410)
FORBIDDEN = ClusterRefused("forbidden", status=403)
BROKEN = ClusterUnavailable("the connection broke")


def event(kind: str, version: int, **metadata: Any) -> bytes:
    pod = {"metadata": {"resourceVersion": str(version), **metadata}}
    return json.dumps({"type": kind, "object": pod}).encode() + b"\n"


def state(version: str | None = "1") -> WatchState:
    return WatchState(version, longest_pause_seconds=2.0)


@given(st.integers(1, 50))
def test_changes_are_the_same_however_the_bytes_are_chunked(size: int) -> None:
    content = event("ADDED", 2, name="a") + event("BOOKMARK", 3) + event("DELETED", 4, name="ü")
    watch = state()
    chunks = (content[start : start + size] for start in range(0, len(content), size))
    changes = [change for chunk in chunks for change in watch.feed(chunk)]
    assert [(change.kind, (change.pod or {})["metadata"]["name"]) for change in changes] == [
        ("ADDED", "a"),
        ("DELETED", "ü"),
    ]
    assert watch.version == "4"


def test_an_error_event_means_that_the_version_has_expired() -> None:
    watch = state()
    error = json.dumps({"type": "ERROR", "object": {"code": 410}}).encode() + b"\n"
    assert list(watch.feed(event("ADDED", 2) + error + event("ADDED", 3)))[1:] == []
    assert watch.version is None


def test_a_line_that_is_cut_is_discarded_with_its_stream() -> None:
    watch = state()
    assert list(watch.feed(event("ADDED", 2)[:-5])) == []
    watch.begin_stream()
    assert [change.kind for change in watch.feed(event("MODIFIED", 2))] == ["MODIFIED"]


@pytest.mark.parametrize("line", [b"no JSON\n", b"[]\n", b'{"type": "ADDED", "object": {}}\n'])
def test_a_line_that_is_no_event_counts_as_a_broken_connection(line: bytes) -> None:
    with pytest.raises(ClusterUnavailable, match="invalid watch event"):
        list(state().feed(line))


@pytest.mark.parametrize(
    ("errors", "version"),
    [([BROKEN] * 3, "1"), ([BROKEN] * 4, None), ([FORBIDDEN], None), ([GONE], None), ([None], "1")],
)
def test_the_version_is_kept_as_long_as_it_may_be_of_use(
    errors: list[ClusterError | None], version: str | None
) -> None:
    watch = state()
    for error in errors:
        watch.end_attempt(error, lasted_seconds=0.0)
    assert watch.version == version


def test_pauses_grow_until_a_watch_has_lasted() -> None:
    watch = state()
    assert [watch.end_attempt(BROKEN, lasted_seconds=0.0) for _ in range(4)] == [0.5, 1.0, 2.0, 2.0]
    assert watch.end_attempt(BROKEN, lasted_seconds=60.0) == 0.5
    assert watch.end_attempt(None, lasted_seconds=540.0) == 0.0


def test_the_first_refusal_and_the_second_broken_connection_are_logged() -> None:
    def logged(*errors: ClusterError) -> list[bool]:
        watch = state()
        return [(watch.end_attempt(each, lasted_seconds=0.0), watch.should_log(each))[1] for each in errors]

    assert logged(FORBIDDEN, FORBIDDEN) == [True, False]
    assert logged(BROKEN, BROKEN, BROKEN) == [False, True, False]
    assert logged(GONE) == [False]


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (403, b'{"message": "no"}', ClusterRefused, "returned 403: no"),
        (503, b"<html>", ClusterUnavailable, "returned 503: <html>"),
        (429, b"", ClusterUnavailable, "returned 429"),
        (200, b'{"metadata": ', ClusterUnavailable, "cannot be reached"),
    ],
)
def test_a_response_is_an_error_of_one_kind_or_the_other(
    status: int, body: bytes, kind: type[ClusterError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        parse_response(PodRequests("jobs").read_pod("p"), status, body)


def test_what_is_gone_is_nothing_to_read_or_delete() -> None:
    requests = PodRequests("jobs")
    assert parse_response(requests.read_pod("p"), 404, b"") is None
    assert parse_response(requests.delete_pod("p", "uid"), 409, b"") is None
    with pytest.raises(ClusterRefused):
        parse_response(requests.read_pod("p"), 409, b"")


def test_a_request_does_not_show_its_secret() -> None:
    request = PodRequests("jobs").create_secret({"stringData": {"JOB_SECRET_KEY": "topsecret"}})
    assert "topsecret" not in repr(request)
