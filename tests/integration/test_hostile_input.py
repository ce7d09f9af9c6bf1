# SPDX-License-Identifier: Apache-2.0
"""Hostile input: every route responds, never with 5xx, and no secret is logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_asyncaction.protocol.signing import (
    JOB_ID_HEADER,
    NONCE_HEADER,
    TIME_HEADER,
    V1_HEADER,
    V2_HEADER,
)
from airflow_asyncaction.protocol.tasks import ActionSpec
from tests.integration.databases import Database
from tests.integration.running_tasks import running_task
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob, sent_raw, sent_registration

pytestmark = pytest.mark.integration

hostile = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

ROUTES = [
    ("POST", "/status"),
    ("POST", ""),
    ("GET", "/job"),
    ("POST", "/task/register"),
    ("GET", "/task/action"),
    ("POST", "/task/message"),
]
TAKING_BODIES = ["/status", "", "/task/message"]

DEEP = 10_000
DIGITS = b"9" * 5_000
NO_JSON = {
    "random bytes": bytes(range(256)),
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"results":' * DEEP + b"1" + b"}" * DEEP,
    "open lists": b'{"results":' + b"[" * DEEP,
    "65 levels": b'{"results":' + b"[" * 65 + b"]" * 65 + b"}",
    "a duplicate key": b'{"status":"RUNNING","status":"SUCCESS"}',
    "a duplicate key, below": b'{"results":[{"a":1,"a":1}]}',
    "a lone surrogate": b'{"results":"\\ud800"}',
    "a lone surrogate as a key": b'{"results":{"\\udfff":1}}',
    "a lone surrogate in UTF-8": b'{"results":"\xed\xa0\x80"}',
    "overlong UTF-8": b'{"results":"\xc0\x80"}',
    "NaN": b'{"results":NaN}',
    "Infinity": b'{"results":-Infinity}',
    "too large a float": b'{"results":1e999}',
    "too long an integer": b'{"results":' + DIGITS + b"}",
    "UTF-16": '{"status":"RUNNING"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NUL": b"\0",
    "a control character in a string": b'{"results":"\n"}',
    "two values": b"{}{}",
    "half an object": b'{"status"',
    "a list": b"[1]",
    "a number": b"1e5",
    "null": b"null",
    "a form": b"status=SUCCESS&results=1",
}
ODD_VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    10**4_000,
    1e308,
    "",
    "\0",
    "x" * 100_000,
    "\U0010ffff\u202e\x7f",
    [],
    [[]],
    ["\0"],
    {},
    {"": None},
    {"\0": "\0"},
    {"message": "\0", "level": "\0", "time": 10**4_000, "stream": []},
    [{"message": "m", "level": "", "time": -1e308}],
    [{"message": 1}],
    [None],
    {"progress": 10**400},
    {"progress": True, "message": ["\0"]},
    {"__class__": "x", "__type": "y", "constructor": {}},
]
REPORT_FIELDS = ["status", "statusDetails", "results", "errorMessage", "errorName", "logs", "agent"]
MESSAGE_FIELDS = ["kind", "job", "code", "signal", "reason", "message", "tail"]
SPEC_FIELDS = sorted(ActionSpec(type="t", runner="r").to_json())
MESSAGES: list[dict[str, Any]] = [
    {"kind": "launched", "job": {}},
    {"kind": "exit", "tail": [], "code": 1},
    {"kind": "stop", "reason": "Killed"},
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["RUNNING", "SUCCESS", "ERROR", "\0", "exit", "STOP"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
header_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"))


@pytest.fixture
def hook(database: Database, request: pytest.FixtureRequest) -> str:
    """Return the hook of one server for each database: both for both takes too long."""
    return str(request.getfixturevalue("alone" if database.name == "sqlite" else "mounted"))


@pytest.fixture
def victim(new_job: NewJob, caplog: pytest.LogCaptureFixture, capfd: Any) -> Iterator[SignedJob]:
    """Return a job whose secret must not be revealed."""
    caplog.set_level(logging.DEBUG, "airflow_asyncaction")
    caplog.set_level(logging.DEBUG, "werkzeug")
    job = new_job()
    yield job
    printed = capfd.readouterr()
    assert job.info.secret_key not in caplog.text + printed.out + printed.err
    assert "Traceback" not in caplog.text + printed.out + printed.err


def is_ours(answer: Answer) -> bool:
    """Return whether an answer is a success, or a refusal as the protocol words it."""
    if answer.status == 200:
        return bool(answer.fields)
    assert 400 <= answer.status < 500, answer
    status, code = answer.error
    return status == answer.status and code.replace("_", "").isalpha()


def lives(job: SignedJob) -> bool:
    """Return whether the action can still be read, whatever was written to it."""
    return job.send("GET", "/job").status == 200 and job.send("GET", "/task/action").status == 200


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_json_object_is_malformed(victim: SignedJob, body: bytes) -> None:
    for path in TAKING_BODIES:
        assert victim.send("POST", path, body).error == (400, "malformed")
    assert lives(victim)


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON)
def test_what_nobody_signed_is_not_looked_at(victim: SignedJob, body: bytes) -> None:
    headers = {JOB_ID_HEADER: victim.info.job_id}
    for method, path in ROUTES:
        if path != "/task/register":
            assert victim.client.send(method, path, body, headers).error == (401, "bad_signature")


@hostile
@given(body=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_answered(victim: SignedJob, body: bytes) -> None:
    for path in TAKING_BODIES:
        assert is_ours(victim.send("POST", path, body))
        assert is_ours(victim.client.send("POST", path, body))
    for path in ("/job", "/task/action"):
        assert victim.send("GET", path, body).status == 200


@pytest.mark.parametrize("field", REPORT_FIELDS)
def test_any_value_in_a_report_is_answered(victim: SignedJob, field: str) -> None:
    for value in ODD_VALUES:
        for signed_with in (victim.send, victim.send_v1):
            answer = signed_with("POST", "/status", {field: value})
            assert is_ours(answer), (value, answer)
    assert lives(victim)


@hostile
@given(fields=st.dictionaries(st.sampled_from(REPORT_FIELDS), json_values))
def test_any_report_is_answered(victim: SignedJob, fields: dict[str, Any]) -> None:
    answer = victim.report(**fields)
    assert is_ours(answer)
    assert answer.status in {200, 400, 409}
    assert lives(victim)


@pytest.mark.parametrize("field", MESSAGE_FIELDS)
def test_any_value_in_a_word_is_answered(new_job: NewJob, victim: SignedJob, field: str) -> None:
    for value in ODD_VALUES:
        for word in MESSAGES:
            job = new_job()
            answer = job.send("POST", "/task/message", {**word, field: value})
            assert is_ours(answer), (value, answer)
            assert lives(job), (word, value)
    assert lives(victim)


@pytest.mark.parametrize("field", SPEC_FIELDS)
def test_any_value_in_a_registration_is_answered(
    database: Database, client: HookClient, victim: SignedJob, field: str
) -> None:
    spec = ActionSpec(type="t", runner="r").to_json()
    task = running_task(database.engine)
    for value in ODD_VALUES:
        fields = {"spec": {**spec, field: value}}
        answer = sent_registration(client, task.ti_id, task.commit(), fields)
        assert is_ours(answer), (value, answer)
        if answer.status == 200:
            task = task.next_try()
    for value in ODD_VALUES:
        assert is_ours(sent_registration(client, task.ti_id, task.commit(), {"spec": spec, "resumes": value}))
    assert lives(victim)


@hostile
@given(name=st.sampled_from([JOB_ID_HEADER, TIME_HEADER, NONCE_HEADER, V2_HEADER]), value=header_text)
@example(name=TIME_HEADER, value="\u00b2")
@example(name=TIME_HEADER, value="9" * 16)
@example(name=V2_HEADER, value="v2=" + "0" * 64)
@example(name=V2_HEADER, value="v2=" + "\u00e9" * 64)
@example(name=NONCE_HEADER, value="x" * 60_000)
def test_any_header_is_answered(victim: SignedJob, name: str, value: str) -> None:
    for method, path in ROUTES:
        headers = {**victim.headers(method, path, b""), name: value}
        answer = victim.client.send(method, path, b"", headers)
        assert is_ours(answer)
        assert answer.status in {400, 401, 403}


@hostile
@given(time_text=header_text, digest=header_text)
def test_any_v1_header_is_answered(victim: SignedJob, time_text: str, digest: str) -> None:
    headers = {JOB_ID_HEADER: victim.info.job_id, TIME_HEADER: time_text, V1_HEADER: digest}
    assert victim.client.send("POST", "/status", b"", headers).error == (401, "bad_signature")


@pytest.mark.parametrize("name", [JOB_ID_HEADER, TIME_HEADER, NONCE_HEADER, V2_HEADER])
def test_a_repeated_header_invalidates_the_signature(victim: SignedJob, name: str) -> None:
    headers = victim.headers("POST", "/status", b"")
    lines = [f"{key}: {value}" for key, value in (*headers.items(), (name, headers[name]))]
    assert sent_raw(victim.client.hook, "POST", "/status", lines).error == (401, "bad_signature")


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: nonsense"],
        ["Content-Length: -1"],
        ["Content-Length: 99999999999999999999"],
        ["Content-Type: multipart/form-data"],
        ["Content-Type: \xff\xfe", "Content-Encoding: gzip"],
        ["Host: a b/c@d:99999", "Host: other"],
        ["Expect: 200-maybe"],
        ["Cookie: _token=x; a=\xff", "Authorization: Bearer x"],
        ["Range: bytes=-1", "If-Modified-Since: never"],
        ["Upgrade: websocket", "Connection: Upgrade"],
        ["X_Job_Id: x", "X-Forwarded-Prefix: //x", "X-Forwarded-Host: \xff"],
    ],
    ids=str,
)
def test_odd_headers_of_http_are_answered(victim: SignedJob, lines: list[str]) -> None:
    answer = sent_raw(victim.client.hook, "POST", "/status", lines, b"0\r\n\r\n")
    assert 400 <= answer.status < 500 or answer.status == 501, answer
    assert lives(victim)


ODD_QUERIES = ["%00", "%ff", "\xff", "&&==", "after=%00", "after=1&after=x", "a" * 20_000]
ODD_PATHS = [
    "/..",
    "/../status",
    "/%2e%2e/status",
    "/task/../status",
    "/status%2f",
    "/status%00",
    "/%00",
    "/status//",
    "/%",
    "/%zz",
    "/%ff%fe",
    "/%ED%A0%80",
    "/status;x=1",
    "/status\\",
    "/" + "../" * 2_000,
    "/static/app.js",
    "/job/",
    "/task/action/x",
]


@pytest.mark.parametrize("path", ODD_PATHS, ids=lambda path: path[:20])
def test_an_odd_path_leads_nowhere(victim: SignedJob, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        signed = [f"{name}: {value}" for name, value in victim.headers(method, path, b"").items()]
        for lines in ([], signed):
            answer = sent_raw(victim.client.hook, method, path, lines)
            assert answer.status in {400, 404}, answer
            assert answer.status == 400 or answer.error == (404, "no_such_route")
    assert lives(victim)


@pytest.mark.parametrize("path", ["/" + "a" * 60_000 + "!", "/" * 60_000, "/%ff" + "/%2F" * 15_000], ids=len)
def test_a_long_path_is_looked_at_once(victim: SignedJob, path: str) -> None:
    """What is looked at again from each of its characters keeps the server from all others for minutes."""
    for method in ("GET", "PUT", "POST"):
        assert 400 <= sent_raw(victim.client.hook, method, path, []).status < 500
    assert lives(victim)


@pytest.mark.parametrize("path", ["/Status", "/status.json", "/" + "a" * 20_000], ids=lambda path: path[:20])
def test_what_may_be_an_operation_is_for_people(victim: SignedJob, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert sent_raw(victim.client.hook, method, path, []).error == (405, "method_not_allowed")
    signed = [f"{name}: {value}" for name, value in victim.headers("PUT", path, b"").items()]
    for lines in ([], signed):
        assert sent_raw(victim.client.hook, "PUT", path, lines).error == (401, "not_signed_in")
    assert lives(victim)


@pytest.mark.parametrize("path", ["/%73tatus", "/%2fstatus", "//status", "/task%2fmessage", "/%6aob"])
def test_another_spelling_of_a_route_must_be_signed_as_well(victim: SignedJob, path: str) -> None:
    for method in ("GET", "POST"):
        answer = sent_raw(victim.client.hook, method, path, [])
        assert answer.error in {(401, "bad_signature"), (405, "method_not_allowed")}


@pytest.mark.parametrize("query", ODD_QUERIES, ids=lambda query: query[:20])
def test_an_odd_query_is_answered(victim: SignedJob, query: str) -> None:
    for method, path in (("POST", "/status"), ("GET", "/job"), ("GET", "/task/action")):
        answer = sent_raw(victim.client.hook, method, f"{path}?{query}", [])
        assert answer.status == 400 or answer.error == (401, "bad_signature")
        if query.isascii():
            assert victim.send(method, path, query=query).status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_any_method_is_answered(victim: SignedJob, method: str) -> None:
    for taken, path in ROUTES:
        if method != taken and (method, path) != ("GET", ""):  # that one is for people
            assert sent_raw(victim.client.hook, method, path, []).error == (405, "method_not_allowed")


def test_an_unknown_method_gets_a_response(victim: SignedJob) -> None:
    for method in ("NONSENSE", "get", "P\xd6ST", "X" * 3_000):
        answer = sent_raw(victim.client.hook, method, "/status", [])
        assert answer.status in {400, 405}


def test_a_head_has_no_body(victim: SignedJob) -> None:
    for path in ("/job", "/status"):
        answer = sent_raw(victim.client.hook, "HEAD", path, [])
        assert answer.status in {401, 405}
        assert answer.body == b""
