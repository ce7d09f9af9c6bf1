# SPDX-License-Identifier: Apache-2.0
"""PROTOCOL.md, sections 2 and 3, over real HTTP: the routes of jobs."""

from __future__ import annotations

import json

import pytest

from airflow_asyncaction import settings
from airflow_asyncaction.protocol.actions import StopReason
from airflow_asyncaction.protocol.lifecycle import Abandon, Stop
from airflow_asyncaction.protocol.strict_json import JsonText
from tests.integration.signed_jobs import HookClient, NewJob, SignedJob, now_ms

pytestmark = pytest.mark.integration

ANSWER_KEYS = [
    "uuid",
    "type",
    "status",
    "action",
    "arguments",
    "serviceName",
    "method",
    "results",
    "errorMessage",
    "errorName",
    "job",
    "attempt",
    "lastJobUpdate",
    "serverTime",
]


def test_a_report_is_answered_with_the_action_and_nothing_secret(job: SignedJob) -> None:
    answer = job.report(
        status="RUNNING", statusDetails={"progress": 40, "message": "loading"}, logs=["one", "two"]
    )
    assert answer.status == 200
    assert list(answer.fields) == ANSWER_KEYS
    assert answer.fields["status"] == "RUNNING"
    assert job.info.secret_key.encode() not in answer.body
    assert b"loading" not in answer.body
    assert answer.headers["cache-control"] == "no-store"
    assert job.info.job_id == answer.fields["uuid"]


@pytest.mark.parametrize(
    ("sent", "signed"), [("/status", "/status"), ("", ""), ("", "/"), ("/", ""), ("/", "/")]
)
def test_a_report_may_come_to_the_hook_itself(job: SignedJob, sent: str, signed: str) -> None:
    headers = job.headers("POST", signed, b'{"status":"SUCCESS","results":0}')
    answer = job.client.send("POST", sent, b'{"status":"SUCCESS","results":0}', headers)
    assert (answer.status, answer.fields["status"], answer.fields["results"]) == (200, "SUCCESS", 0)


@pytest.mark.parametrize(("sent", "signed"), [("/status", "/"), ("/", "/status"), ("/job", ""), ("", "//")])
def test_only_the_hook_itself_has_two_paths(job: SignedJob, sent: str, signed: str) -> None:
    method = "GET" if sent == "/job" else "POST"
    answer = job.client.send(method, sent, b"", job.headers(method, signed, b""))
    assert answer.error == (401, "bad_signature")


def test_a_job_reads_its_arguments(new_job: NewJob) -> None:
    job = new_job(type="etl.load", arguments=JsonText('{"table":"orders","n":[1,null]}'))
    answer = job.send("GET", "/job")
    assert answer.status == 200
    assert list(answer.fields) == ANSWER_KEYS
    assert answer.fields["arguments"] == {"table": "orders", "n": [1, None]}
    assert (answer.fields["type"], answer.fields["status"]) == ("etl.load", "STARTING")
    assert answer.fields["lastJobUpdate"] is None


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_an_empty_report_is_a_heartbeat(job: SignedJob, body: bytes) -> None:
    before = now_ms()
    answer = job.send("POST", "/status", body)
    assert answer.status == 200
    assert answer.fields["status"] == "RUNNING"
    assert before - 1 <= answer.fields["lastJobUpdate"] <= answer.fields["serverTime"] <= now_ms() + 1


@pytest.mark.parametrize("results", [0, False, "", None, [], {}, 1.5, {"a": [1, "é", None]}])
def test_a_result_is_kept_however_little_it_is(job: SignedJob, results: object) -> None:
    assert job.report(status="SUCCESS", results=results).fields["results"] == results
    assert job.send("GET", "/job").fields["results"] == results
    assert job.view().results == json.dumps(results, separators=(",", ":"))


def test_absent_results_are_not_null_results(job: SignedJob) -> None:
    job.report(status="SUCCESS")
    assert job.view().results is None


def test_unknown_fields_are_ignored(job: SignedJob) -> None:
    assert job.report(status="RUNNING", whatever={"x": 1}).status == 200


def test_an_error_is_reported_with_name_and_message(job: SignedJob) -> None:
    answer = job.report(status="ERROR", errorName="Boom", errorMessage="it broke\0here")
    assert answer.fields["status"] == "ERROR"
    assert (answer.fields["errorName"], answer.fields["errorMessage"]) == ("Boom", "it broke\ufffdhere")


def test_a_second_end_is_refused_if_it_differs(job: SignedJob) -> None:
    assert job.report(status="SUCCESS", results=1).status == 200
    assert job.report(status="ERROR").error == (409, "already_ended")
    assert job.report(status="SUCCESS", results=2).error == (409, "already_ended")
    assert job.report(status="SUCCESS").fields["results"] == 1


def test_after_the_end_only_log_lines_are_kept(job: SignedJob) -> None:
    job.report(status="SUCCESS", results=1)
    answer = job.report(status="RUNNING", statusDetails=3, results=2, logs=["late"])
    assert (answer.status, answer.fields["status"], answer.fields["results"]) == (200, "SUCCESS", 1)
    assert [line.message for line in job.view().logs] == ["late"]
    assert job.view().status_details is None


def test_a_job_is_requested_to_stop(job: SignedJob) -> None:
    job.send_message(Stop(StopReason.REQUESTED))
    assert job.report().fields["action"] == "STOP"
    assert job.send("GET", "/job").fields["action"] == "STOP"


def test_a_job_that_airflow_ended_is_refused(job: SignedJob) -> None:
    job.send_message(Abandon())
    assert job.report(status="SUCCESS").error == (410, "superseded")
    assert job.report().error == (410, "superseded")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"no json", ""),
        (b"[]", ""),
        (b"\xff", ""),
        (b'{"status": "DONE"}', "status"),
        (b'{"status": ["SUCCESS"]}', "status"),
        (b'{"statusDetails": 100.5}', "statusDetails"),
        (b'{"statusDetails": {"progress": -1}}', "statusDetails"),
        (b'{"statusDetails": {"progress": "half"}}', "statusDetails"),
        (b'{"errorMessage": 1}', "errorMessage"),
        (b'{"errorName": []}', "errorName"),
        (b'{"logs": "line"}', "logs"),
        (b'{"logs": [1]}', "logs"),
        (b'{"logs": [{"message": "m", "time": "now"}]}', "logs"),
        (b'{"agent": "me"}', "agent"),
    ],
)
def test_what_is_no_report_is_refused_and_named(job: SignedJob, body: bytes, field: str) -> None:
    answer = job.send("POST", "/status", body)
    assert answer.error == (400, "malformed")
    assert answer.fields["field"] == field
    assert job.send("GET", "/job").fields["status"] == "STARTING"


def test_a_report_may_be_as_long_as_the_limit(job: SignedJob) -> None:
    limit = settings.load().limits.body_bytes
    assert job.send("POST", "/status", b"{}" + b" " * (limit - 2)).status == 200
    assert job.send("POST", "/status", b"{}" + b" " * (limit - 1)).error == (413, "too_large")
    assert job.report().status == 200


def test_a_chunked_report_is_read_to_its_end(job: SignedJob) -> None:
    body = b'{"status":"SUCCESS","results":"' + b"x" * 100_000 + b'"}'
    chunks = [body[start : start + 7_000] for start in range(0, len(body), 7_000)]
    answer = job.client.send("POST", "/status", chunks, job.headers("POST", "/status", body))
    assert answer.fields["results"] == "x" * 100_000


def test_a_chunked_report_is_read_no_further_than_the_limit(job: SignedJob) -> None:
    limit = settings.load().limits.body_bytes
    body = b" " * (limit + 1)
    chunks = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    answer = job.client.send("POST", "/status", chunks, job.headers("POST", "/status", body))
    assert answer.error == (413, "too_large")


def test_too_many_log_lines_in_a_report_are_refused(job: SignedJob) -> None:
    assert job.report(logs=["x"] * 1000).status == 200
    assert job.report(logs=["x"] * 1001).error == (413, "too_large")
    assert len(job.view().logs) == 1000


def test_a_long_line_is_cut_and_marked(job: SignedJob) -> None:
    job.report(logs=["é" * 10_000])
    (line,) = job.view().logs
    mark = " [cut: the line has 20000 bytes]"
    assert line.message == "é" * ((16 * 1024 - len(mark)) // 2) + mark


@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        ("POST", "/nothing/there", (404, "no_such_route")),
        ("POST", "/status/", (404, "no_such_route")),
        ("POST", "/task/nothing", (404, "no_such_route")),
        ("GET", "/status", (405, "method_not_allowed")),
        ("PUT", "/status", (405, "method_not_allowed")),
        ("OPTIONS", "/status", (405, "method_not_allowed")),
        ("POST", "/job", (405, "method_not_allowed")),
        ("DELETE", "/task/message", (405, "method_not_allowed")),
    ],
)
def test_what_is_no_route_says_so(client: HookClient, method: str, path: str, error: tuple[int, str]) -> None:
    answer = client.send(method, path)
    assert answer.error == error
    assert (answer.status == 405) == ("allow" in answer.headers)
