# SPDX-License-Identifier: Apache-2.0
"""Signatures: the published vectors, and hostile headers."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction import protocol
from airflow_asyncaction.exceptions import SignatureError, StaleTime
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
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
    sign_v1,
    sign_v2,
    signed_headers,
    string_to_sign,
    verify,
)

Vector = dict[str, Any]
VECTORS: list[Vector] = json.loads((files(protocol) / "vectors/signing.json").read_text())
INFO = JobInfo(job_id=JobId("6f1d9b8e-3c1a-4c57-9a55-0d2f6f2f9c11"), secret_key="s" * 40, hook_url="http://h")
NONCE = "n" * 16
CONTENT = Content("POST", "/status", "", b"{}")
NOW_MS = 1_700_000_000_000

PATHS: list[Vector] = json.loads((files(protocol) / "vectors/paths.json").read_text(encoding="utf-8"))
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
hostile_text = (
    st.text() | st.text(st.characters()) | st.sampled_from(["v2=", "v2=" + "0" * 64, "0" * 64, "1"])
)


def content_of(vector: Vector) -> Content:
    return Content(vector["method"], vector["path"], vector["query"], vector["body"].encode())


def headers_of(vector: Vector) -> dict[str, str]:
    return {
        JOB_ID_HEADER: vector["job_id"],
        TIME_HEADER: vector["time"],
        NONCE_HEADER: vector["nonce"],
        V2_HEADER: "v2=" + vector["v2"],
    }


def valid_claim() -> Claim:
    return read_claim(signed_headers(INFO, CONTENT, time_ms=NOW_MS, nonce=NONCE))


def check(claim: Claim, content: Content = CONTENT, *, now_ms: int = NOW_MS) -> None:
    verify(claim, content, secret=INFO.secret_key, now_ms=now_ms, max_skew_ms=1000)


@each_vector
def test_vector_v1(vector: Vector) -> None:
    assert sign_v1(vector["secret"], vector["time"]) == vector["v1"]


@each_vector
def test_vector_string_to_sign(vector: Vector) -> None:
    text = string_to_sign(
        job_id=vector["job_id"],
        time_text=vector["time"],
        nonce=vector["nonce"],
        content=content_of(vector),
    )
    assert text.decode() == vector["string_to_sign"]


@each_vector
def test_vector_v2(vector: Vector) -> None:
    digest = sign_v2(
        vector["secret"],
        job_id=vector["job_id"],
        time_text=vector["time"],
        nonce=vector["nonce"],
        content=content_of(vector),
    )
    assert digest == vector["v2"]


@each_vector
def test_vector_is_what_a_job_sends_and_a_server_takes(vector: Vector) -> None:
    info = JobInfo(job_id=vector["job_id"], secret_key=vector["secret"], hook_url="http://h")
    headers = signed_headers(info, content_of(vector), time_ms=int(vector["time"]), nonce=vector["nonce"])
    assert headers == headers_of(vector)
    claim = read_claim(headers)
    verify(claim, content_of(vector), secret=vector["secret"], now_ms=int(vector["time"]), max_skew_ms=0)


@pytest.mark.parametrize("path", PATHS, ids=[path["name"] for path in PATHS])
def test_path_vectors_are_signed_like_the_first_vector(path: Vector) -> None:
    first = VECTORS[0]
    content = replace(content_of(first), path=path["signed"])
    info = JobInfo(job_id=first["job_id"], secret_key=first["secret"], hook_url="http://h")
    headers = signed_headers(info, content, time_ms=int(first["time"]), nonce=first["nonce"])
    assert headers[V2_HEADER] == "v2=" + path["v2"]


@each_vector
def test_vector_v1_is_taken(vector: Vector) -> None:
    headers = {JOB_ID_HEADER: vector["job_id"], TIME_HEADER: vector["time"], V1_HEADER: vector["v1"]}
    claim = read_claim(headers)
    assert claim.scheme is Scheme.V1
    verify(claim, content_of(vector), secret=vector["secret"], now_ms=int(vector["time"]), max_skew_ms=0)


@pytest.mark.parametrize(
    "content",
    [
        replace(CONTENT, method="PUT"),
        replace(CONTENT, path=""),
        replace(CONTENT, path="/status/"),
        replace(CONTENT, query="a"),
        replace(CONTENT, body=b"{} "),
    ],
)
def test_v2_covers_the_whole_request(content: Content) -> None:
    check(valid_claim())
    with pytest.raises(SignatureError):
        check(valid_claim(), content)


@pytest.mark.parametrize("change", [{"nonce": "m" * 16}, {"time_text": "1700000000001"}])
def test_v2_covers_nonce_and_time(change: dict[str, Any]) -> None:
    with pytest.raises(SignatureError):
        check(replace(valid_claim(), **change))


@pytest.mark.parametrize("offset_ms", [-1001, 1001])
def test_a_stale_time_is_only_reported_to_valid_signatures(offset_ms: int) -> None:
    with pytest.raises(StaleTime):
        check(valid_claim(), now_ms=NOW_MS + offset_ms)
    with pytest.raises(SignatureError) as caught:
        check(replace(valid_claim(), digest="0" * 64), now_ms=NOW_MS + offset_ms)
    assert not isinstance(caught.value, StaleTime)


@pytest.mark.parametrize("offset_ms", [-1000, 0, 1000])
def test_time_within_the_skew_is_taken(offset_ms: int) -> None:
    check(valid_claim(), now_ms=NOW_MS + offset_ms)


def test_v2_is_taken_before_a_v1_hash_beside_it() -> None:
    headers = signed_headers(INFO, CONTENT, time_ms=NOW_MS, nonce=NONCE)
    headers[V1_HEADER] = sign_v1(INFO.secret_key, str(NOW_MS))
    assert read_claim(headers).scheme is Scheme.V2
    headers[V2_HEADER] = "v2=" + "0" * 64
    with pytest.raises(SignatureError):
        check(read_claim(headers))


@given(
    st.dictionaries(
        st.sampled_from([JOB_ID_HEADER, TIME_HEADER, NONCE_HEADER, V1_HEADER, V2_HEADER]), hostile_text
    )
)
def test_hostile_headers_raise_signature_error_alone(changes: dict[str, str]) -> None:
    headers = {**signed_headers(INFO, CONTENT, time_ms=NOW_MS, nonce=NONCE), **changes}
    try:
        check(read_claim(headers))
    except SignatureError:
        return
    assert read_claim(headers) == valid_claim()


@given(st.dictionaries(st.text(), hostile_text))
def test_any_headers_raise_signature_error_alone(headers: dict[str, str]) -> None:
    with pytest.raises(SignatureError):
        read_claim(headers)


@given(
    method=hostile_text,
    path=hostile_text | st.binary(),
    query=hostile_text | st.binary(),
    body=st.binary(),
    secret=hostile_text,
)
def test_any_content_raises_signature_error_alone(
    method: str, path: str | bytes, query: str | bytes, body: bytes, secret: str
) -> None:
    content = Content(method, path, query, body)
    with pytest.raises(SignatureError):
        verify(valid_claim(), content, secret="x" + secret, now_ms=NOW_MS, max_skew_ms=0)


def test_report_key_is_the_nonce_or_never_like_one() -> None:
    claim = valid_claim()
    assert report_key(claim, b"a") == report_key(claim, b"b") == NONCE
    v1 = replace(claim, scheme=Scheme.V1, nonce="")
    assert report_key(v1, b"a") == report_key(v1, b"a") != report_key(v1, b"b")
    with pytest.raises(SignatureError):
        read_claim({**headers_of(VECTORS[0]), NONCE_HEADER: report_key(v1, b"a")})
