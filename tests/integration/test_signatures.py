# SPDX-License-Identifier: Apache-2.0
"""PROTOCOL.md, section 2, over real HTTP: signatures and resent reports."""

from __future__ import annotations

import email.utils
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import pytest
from flask import Flask, Response, jsonify, request
from sqlalchemy import select

from airflow_asyncaction import protocol, settings
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.signing import (
    JOB_ID_HEADER,
    NONCE_HEADER,
    TIME_HEADER,
    V1_HEADER,
    V2_HEADER,
    sign_v1,
)
from airflow_asyncaction.protocol.tasks import TaskCredentials
from airflow_asyncaction.services import open_services
from airflow_asyncaction.store.models import report_table
from airflow_asyncaction.store.proof import Credentials
from airflow_asyncaction.store.secret import Secrets
from airflow_asyncaction.web.app import create_app
from airflow_asyncaction.web.refusals import register_error_handlers
from airflow_asyncaction.web.security import Caller, parse_signed_request
from tests.integration.databases import Database
from tests.integration.file_transfers import announcement
from tests.integration.servers import PREFIX, Prepared, served_alone, served_mounted
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob, new_nonce, now_ms

pytestmark = pytest.mark.integration

_VECTORS = files(protocol) / "vectors"
VECTORS: list[dict[str, Any]] = json.loads((_VECTORS / "signing.json").read_text(encoding="utf-8"))
PATHS: list[dict[str, Any]] = json.loads((_VECTORS / "paths.json").read_text(encoding="utf-8"))
PROXIES = pytest.mark.parametrize(
    ("root_path", "seen_under"),
    [("", ""), (PREFIX, PREFIX), (PREFIX, "")],
    ids=["no proxy", "prefix kept", "prefix stripped"],
)
UNSIGNED = (401, "bad_signature")


def reports_of(database: Database, job: SignedJob) -> list[Any]:
    query = select(report_table).where(report_table.c.action_id == job.info.job_id)
    with database.engine.connect() as connection:
        return list(connection.execute(query.order_by(report_table.c.id)))


def test_v1_is_taken_until_v2_was_used(job: SignedJob) -> None:
    assert job.send_v1("POST", "/status", {"status": "RUNNING"}).status == 200
    assert job.send_v1("GET", "/job").status == 200
    assert job.report().status == 200
    assert job.send_v1("POST", "/status", {"status": "SUCCESS"}).error == UNSIGNED
    assert job.send_v1("GET", "/job").error == UNSIGNED


V2_REQUESTS: dict[str, tuple[str, str, Any, int]] = {
    "report": ("POST", "/status", {}, 200),
    "report at the hook": ("POST", "", {}, 200),
    "malformed report": ("POST", "/status", b"[]", 400),
    "look": ("GET", "/job", {}, 200),
    "announcement": ("PUT", "/upload/default/{id}/left", announcement(b"x"), 200),
    "malformed announcement": ("PUT", "/upload/default/{id}/left", {}, 400),
    "refused announcement": ("PUT", "/upload/default/{other}/left", announcement(b"x"), 403),
    "download of nothing": ("GET", "/download/default/{id}/none/0", {}, 404),
}


@pytest.mark.parametrize("name", V2_REQUESTS)
def test_whatever_a_job_signs_with_v2_locks_v1_out(job: SignedJob, name: str) -> None:
    method, path, body, status = V2_REQUESTS[name]
    path = path.format(id=job.info.job_id, other=uuid4())
    assert job.forged(secrets_of=job.swapped()).send(method, path, body).error == UNSIGNED
    assert job.send_v1("POST", "/status").status == 200
    assert job.send(method, path, body).status == status
    assert job.send_v1("POST", "/status").error == UNSIGNED


def test_a_refused_report_that_is_not_kept_any_more_locks_v1_out(
    job: SignedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_asyncaction.store.refused_reports.KEPT_REFUSALS", 0)
    assert job.send("POST", "/status", b"[]").status == 400
    assert job.send_v1("POST", "/status").error == UNSIGNED


def test_an_action_may_refuse_v1_from_the_start(new_job: NewJob) -> None:
    job = new_job(accept_v1=False)
    assert job.send_v1("POST", "/status").error == UNSIGNED
    assert job.report().status == 200


def test_a_deployment_may_refuse_v1(job: SignedJob) -> None:
    strict = create_app(open_services(replace(settings.load(), accept_v1=False)))
    with served_alone(strict) as hook, HookClient(hook) as client:
        assert job.on(client).send_v1("POST", "/status").error == UNSIGNED
        assert job.on(client).report().status == 200


@pytest.mark.parametrize("signed_with", ["v1", "v2"])
@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_wrong_clock_is_corrected_with_the_servers_time(
    job: SignedJob, minutes: int, signed_with: str
) -> None:
    wrong_ms = now_ms() + minutes * 60_000
    nonce = new_nonce()
    if signed_with == "v1":
        answer = job.send_v1("POST", "/status", time_text=str(wrong_ms))
    else:
        answer = job.send("POST", "/status", nonce=nonce, time_ms=wrong_ms)
    assert answer.error == (401, "stale_time")
    assert abs(answer.fields["serverTime"] - now_ms()) < 10_000
    date = email.utils.parsedate_to_datetime(answer.headers["date"])
    assert abs(date - datetime.now(UTC)) < timedelta(seconds=10)
    corrected = wrong_ms + answer.fields["serverTime"] - wrong_ms
    assert job.send("POST", "/status", nonce=nonce, time_ms=corrected).status == 200


def test_a_clock_within_the_skew_is_right(job: SignedJob) -> None:
    assert job.send("POST", "/status", time_ms=now_ms() - 290_000).status == 200
    assert job.send("POST", "/status", time_ms=now_ms() + 290_000).status == 200


def test_a_wrong_time_is_not_revealed_without_a_valid_signature(job: SignedJob) -> None:
    headers = job.headers("POST", "/status", b"", time_ms=1)
    headers[V2_HEADER] = "v2=" + "0" * 64
    assert job.client.send("POST", "/status", headers=headers).error == UNSIGNED


def test_a_signature_is_good_for_its_request_alone(job: SignedJob) -> None:
    headers = job.headers("POST", "/status", b'{"a":1}')
    send = job.client.send
    assert send("POST", "/status", b'{"a":2}', headers).error == UNSIGNED
    assert send("POST", "", b'{"a":1}', headers).error == UNSIGNED
    assert send("POST", "/status?a=1", b'{"a":1}', headers).error == UNSIGNED
    assert send("GET", "/job", b'{"a":1}', headers).error == UNSIGNED
    changed = {**headers, TIME_HEADER: str(int(headers[TIME_HEADER]) + 1)}
    assert send("POST", "/status", b'{"a":1}', changed).error == UNSIGNED
    changed = {**headers, NONCE_HEADER: new_nonce()}
    assert send("POST", "/status", b'{"a":1}', changed).error == UNSIGNED
    assert send("POST", "/status", b'{"a":1}', headers).status == 200


def test_unknown_jobs_and_others_secrets_get_the_same_answer(new_job: NewJob) -> None:
    job, other = new_job(), new_job()
    stranger = job.forged(job_id=str(uuid4()))
    thief = job.forged(secrets_of=other)
    answers = [who.send("POST", "/status") for who in (stranger, thief)]
    assert [answer.error for answer in answers] == [UNSIGNED, UNSIGNED]
    assert answers[0].body == answers[1].body


def test_who_guesses_the_secret_of_nobody_is_nobody(job: SignedJob) -> None:
    known = replace(job.info, secret_key="nobody's"), replace(job.task, secret_key="nobody's")
    nobody = SignedJob(*known, job.client).forged(job_id=str(uuid4()))
    assert nobody.report().error == UNSIGNED
    assert nobody.send("GET", "/job").error == UNSIGNED
    assert nobody.send_v1("POST", "/status").error == UNSIGNED
    assert nobody.send("GET", "/task/action").error == UNSIGNED
    assert nobody.send("POST", "/task/message", {"kind": "abandon"}).error == UNSIGNED


@pytest.mark.parametrize("name", [JOB_ID_HEADER, TIME_HEADER, NONCE_HEADER, V2_HEADER])
@pytest.mark.parametrize("value", [None, "", "x", "1,1", "v2=", "é", "-1", "9" * 400])
def test_a_malformed_header_is_an_unsigned_request(job: SignedJob, name: str, value: str | None) -> None:
    headers = job.headers("POST", "/status", b"")
    del headers[name]
    if value is not None:
        headers[name] = value
    assert job.client.send("POST", "/status", headers=headers).error == UNSIGNED


def test_a_job_id_is_the_same_in_upper_case(job: SignedJob) -> None:
    shouting = job.forged(job_id=job.info.job_id.upper())
    answer = shouting.report(status="SUCCESS")
    assert (answer.status, answer.fields["uuid"]) == (200, job.info.job_id)


def test_a_report_sent_again_is_answered_again_and_counts_once(database: Database, job: SignedJob) -> None:
    nonce = new_nonce()
    first = job.report(nonce=nonce, status="RUNNING", logs=["once"])
    job.report(status="SUCCESS", results=7)
    again = job.report(nonce=nonce, status="RUNNING", logs=["once"])
    assert (first.status, again.status) == (200, 200)
    assert [line.message for line in job.view().logs] == ["once"]
    assert len(reports_of(database, job)) == 2
    assert job.report(nonce=nonce, status="ERROR").error == (409, "nonce_reused")
    assert job.report(nonce=nonce, status="RUNNING", logs=["once"]).status == 200
    assert job.send("GET", "/job").fields["results"] == 7


def test_a_refused_report_sent_again_is_refused_again_and_kept_once(
    database: Database, job: SignedJob
) -> None:
    nonce = new_nonce()
    job.report(status="SUCCESS")
    for _ in range(3):
        assert job.report(nonce=nonce, status="ERROR").error == (409, "already_ended")
    assert [row.refused_with for row in reports_of(database, job)] == [None, "already_ended"]


def test_v1_reports_are_known_by_time_and_body(database: Database, job: SignedJob) -> None:
    text = str(now_ms())
    for _ in range(2):
        assert job.send_v1("POST", "/status", {"logs": ["a"]}, time_text=text).status == 200
    assert job.send_v1("POST", "/status", {"logs": ["b"]}, time_text=text).status == 200
    assert job.send_v1("POST", "/status", {"logs": ["a"]}, time_text=str(int(text) + 1)).status == 200
    assert len(reports_of(database, job)) == 3
    assert [line.message for line in job.view().logs] == ["a", "b", "a"]


def test_a_v1_hash_beside_a_v2_signature_is_not_looked_at(job: SignedJob) -> None:
    headers = job.headers("POST", "/status", b"")
    hashed = sign_v1(job.info.secret_key, headers[TIME_HEADER])
    wrong = {**headers, V2_HEADER: "v2=" + "0" * 64, V1_HEADER: hashed}
    assert job.client.send("POST", "/status", headers=wrong).error == UNSIGNED
    assert job.client.send("POST", "/status", headers={**headers, V1_HEADER: "x"}).status == 200


def app_that_proves(vectors: list[dict[str, Any]]) -> Flask:
    """Return an app on which every path is a route, and which proves all requests as ours does."""
    secret_of = {vector["v2"]: vector["secret"] for vector in vectors}
    options = replace(settings.load(), max_clock_skew=timedelta(days=36_500))
    app = Flask("vectors", static_folder=None)
    register_error_handlers(app)

    def prove(path: str) -> Response:
        del path
        signed = parse_signed_request(request, options, Caller.JOB)
        known = Secrets(job=secret_of[signed.claim.digest], task="another's")
        signed.prove(Credentials(known, accept_v1=True))
        path_as_sent = signed.content.path
        assert isinstance(path_as_sent, bytes)
        return jsonify(path_as_sent.decode())

    methods = ["GET", "POST", "PUT"]
    app.add_url_rule("/", view_func=prove, methods=methods, defaults={"path": ""})
    app.add_url_rule("/<path:path>", view_func=prove, methods=methods)
    return app


def send_vector(vector: dict[str, Any], client: HookClient) -> Answer:
    path, query = vector["path"], vector["query"]
    headers = {
        JOB_ID_HEADER: vector["job_id"],
        TIME_HEADER: vector["time"],
        NONCE_HEADER: vector["nonce"],
        V2_HEADER: f"v2={vector['v2']}",
    }
    target = path + (f"?{query}" if query else "")
    return client.send(vector["method"], target, vector["body"].encode(), headers)


def proven_path(vector: dict[str, Any], client: HookClient) -> Any:
    answer = send_vector(vector, client)
    assert answer.status == 200, answer
    return json.loads(answer.body)


def spellings_of(client: HookClient, paths: list[dict[str, Any]]) -> None:
    """Send each path with the signature of a path, and expect the response of PROTOCOL.md."""
    for path in paths:
        answer = send_vector({**VECTORS[0], "path": path["sent"], "v2": path["v2"]}, client)
        if path["is_accepted"]:
            assert (answer.status, json.loads(answer.body)) == (200, routed_path(path["signed"])), path
        else:
            assert answer.error == UNSIGNED, path


def routed_path(signed: str) -> str:
    """Return the path that the server sees: it cannot distinguish ``/`` from an empty path."""
    return "" if signed == "/" else signed


MORE_PATHS = ["/a%2Fb", "/a%2fb/c", "/%61", "/a%20b", "/a+b", "/a;v=1", "/%C3%A9", "/a//b", "/a/", "/a%25b"]


@pytest.fixture
def more_vectors() -> list[dict[str, Any]]:
    """Return requests for paths that servers and proxies might change, signed by us."""
    info = JobInfo(job_id=JobId(str(uuid4())), secret_key="s" * 43, hook_url="http://hook")

    def signed(path: str, query: str) -> dict[str, Any]:
        with HookClient(info.hook_url) as client:
            job = SignedJob(info, TaskCredentials(info.job_id, ""), client)
            headers = job.headers("PUT", path, b"body", query=query)
        return {
            "method": "PUT",
            "path": path,
            "query": query,
            "body": "body",
            "secret": info.secret_key,
            "job_id": headers[JOB_ID_HEADER],
            "time": headers[TIME_HEADER],
            "nonce": headers[NONCE_HEADER],
            "v2": headers[V2_HEADER].removeprefix("v2="),
        }

    return [signed(path, query) for path in MORE_PATHS for query in ("", "a=%20b&a=/?&b=+%2B")]


def test_every_vector_is_proven_where_the_app_is_alone(more_vectors: list[dict[str, Any]]) -> None:
    vectors = VECTORS + more_vectors
    with served_alone(app_that_proves(vectors)) as hook, HookClient(hook) as client:
        proven = [proven_path(vector, client) for vector in vectors]
    assert proven == [routed_path(vector["path"]) for vector in vectors]


@PROXIES
def test_every_vector_is_proven_behind_a_proxy(
    more_vectors: list[dict[str, Any]], root_path: str, seen_under: str
) -> None:
    vectors = VECTORS + more_vectors
    with (
        served_mounted(Prepared(app_that_proves(vectors)), root_path) as url,
        HookClient(url + seen_under + settings.load().url) as client,
    ):
        proven = [proven_path(vector, client) for vector in vectors]
    assert proven == [routed_path(vector["path"]) for vector in vectors]


def test_a_signature_is_good_for_one_spelling_of_a_path_where_the_app_is_alone() -> None:
    app = app_that_proves([{**VECTORS[0], "v2": path["v2"]} for path in PATHS])
    with served_alone(app) as hook, HookClient(hook) as client:
        # At the root of a server, "%2F" is no path of HTTP, and Python's own server makes one slash of two.
        at_root = [path for path in PATHS if path["sent"][:1] == "/" and path["sent"][1:2] != "/"]
        spellings_of(client, at_root)


@PROXIES
def test_a_signature_is_good_for_one_spelling_of_a_path(root_path: str, seen_under: str) -> None:
    app = app_that_proves([{**VECTORS[0], "v2": path["v2"]} for path in PATHS])
    with (
        served_mounted(Prepared(app), root_path) as url,
        HookClient(url + seen_under + settings.load().url) as client,
    ):
        spellings_of(client, PATHS)


@pytest.mark.parametrize("sent", ["%2Fstatus", "%2fstatus", "%2F/status", "%2F"])
def test_an_escaped_first_slash_is_no_signed_path(job: SignedJob, sent: str) -> None:
    with served_mounted() as url, HookClient(url + settings.load().url) as client:
        behind = job.on(client)
        for signed in (sent, unquote(sent), "/status", ""):
            headers = behind.headers("POST", signed, b"")
            assert client.send("POST", sent, headers=headers).error == UNSIGNED, signed
        assert behind.send_v1("POST", sent).error == UNSIGNED
        assert behind.report().status == 200


@pytest.mark.parametrize("seen_under", [PREFIX, ""], ids=["prefix kept", "prefix stripped"])
def test_the_mount_serves_behind_a_proxy(job: SignedJob, seen_under: str) -> None:
    with served_mounted(root_path=PREFIX) as url:
        with HookClient(url + seen_under + settings.load().url) as client:
            behind = job.on(client)
            assert behind.report(status="RUNNING").status == 200
            assert behind.send("POST", "", {"status": "SUCCESS"}).fields["status"] == "SUCCESS"
            assert behind.send("GET", "/job").status == 200
            assert behind.view().state == "SUCCESS"
            assert client.send("POST", "/nothing/there").error == (404, "no_such_route")
        with HookClient(url + seen_under) as client:
            assert b"Airflow" in client.send("GET", "/asyncx").body
            assert b"Airflow" in client.send("GET", "/home").body
