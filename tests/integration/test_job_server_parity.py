# SPDX-License-Identifier: Apache-2.0
"""The test server responds like the API server: the same requests are sent to both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from airflow_asyncaction import protocol
from airflow_asyncaction.protocol.actions import StopReason
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Stop
from airflow_asyncaction.protocol.runner_messages import RunnerMessage
from airflow_asyncaction.protocol.signing import (
    JOB_ID_HEADER,
    NONCE_HEADER,
    TIME_HEADER,
    V1_HEADER,
    V2_HEADER,
)
from airflow_asyncaction.testing import JobServer
from tests.integration.file_servers import Serve, one_server_each
from tests.integration.file_transfers import announcement
from tests.integration.peers import ORDERS, Peer, Peers
from tests.integration.seen_answers import seen
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob, new_nonce, now_ms, sent_raw

pytestmark = [pytest.mark.integration, one_server_each]

VECTORS: list[dict[str, Any]] = json.loads((files(protocol) / "vectors/signing.json").read_text())
ENDS: list[dict[str, Any]] = json.loads((files(protocol) / "vectors/ends.json").read_text())
PATHS: list[dict[str, Any]] = json.loads((files(protocol) / "vectors/paths.json").read_text(encoding="utf-8"))
PROTOCOL = Path(__file__).parents[2] / "PROTOCOL.md"
ROUTES = re.findall(r"^###+ ([A-Z, ]+) (/\S+)$", PROTOCOL.read_text(encoding="utf-8"), re.MULTILINE)
"""Methods and paths of the routes that PROTOCOL.md documents in sections of their own."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


# --- routes


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/status",
        "/status/",
        "/job",
        "/nothing",
        "/nothing/there",
        "/Status",
        "/status%2f",
        "/%73tatus",
        "/upload",
        "/upload/default/{id}",
        "/upload/default/{id}/counts",
        "/upload/default/{id}/counts/0",
        "/upload/default/{id}/counts/0/complete",
        "/upload/default/{id}/counts/x/complete",
        "/download/default/{id}/counts",
        "/download/default/{id}/counts/0",
        "/download/default/{id}/counts/-1",
        "/download/default/{id}/counts/99999999999",
        "/download/default/{id}/counts/" + "9" * 5000,
    ],
    ids=lambda path: path[:50],
)
@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "unsigned"])
def test_every_method_of_every_route(peers: Peers, path: str, is_signed: bool) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        sent = path.format(id=peer.job.info.job_id)
        for method in METHODS:
            yield peer.job.send(method, sent) if is_signed else peer.job.client.send(method, sent)

    answers = peers.agree(exchange)
    assert all(answer.status < 500 for answer in answers)


@pytest.mark.parametrize("methods_and_path", ROUTES, ids=" ".join)
def test_the_routes_of_the_protocol(peers: Peers, content: bytes, methods_and_path: tuple[str, str]) -> None:
    methods, path = methods_and_path

    def exchange(peer: Peer) -> Iterator[Answer]:
        names = {"store": "default", "uuid": peer.job.info.job_id, "property": "counts", "index": "0"}
        url = peer.announce(content).fields["url"]
        sent = path.format(**names, token=url.rpartition("/")[2])
        for method in methods.split(", "):
            yield peer.job.send(method, sent, announcement(content) if "upload" in path else b"")
            yield peer.job.client.send(method, sent)

    answers = peers.agree(exchange)
    assert not {"no_such_route", "method_not_allowed"} & {
        str(answer.fields.get("error")) for answer in answers
    }


@pytest.mark.parametrize(
    "path",
    [
        "/actions",
        "/actions/{id}",
        "/actions/{id}/logs",
        "/actions/{id}/changes",
        "/actions/{id}/stop",
        "/actions/{id}/files/counts/0",
        "/actions/{id}/unknown",
        "/etl.load",
        "/task",
        "/task/register",
        "/task/action",
        "/task/message",
        "/task/inputs/default/orders",
        "/task/inputs/default/link",
        "/task/inputs/default/orders/0/complete",
        "/task/outputs",
        "/task/unknown",
    ],
)
@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "unsigned"])
def test_a_job_cannot_use_the_routes_of_tasks_and_users(peers: Peers, path: str, is_signed: bool) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        sent = path.format(id=peer.job.info.job_id)
        for method in METHODS:
            headers = (
                peer.job.headers(method, "/job", b"") if is_signed else {}
            )  # as if it were a job's route
            yield peer.job.client.send(method, sent, b"", headers)

    answers = peers.agree(exchange)
    assert {answer.status for answer in answers} <= {401, 403, 404, 405}


@pytest.mark.parametrize("vector", PATHS, ids=[vector["name"] for vector in PATHS])
def test_the_paths_of_the_vectors(peers: Peers, server: str, vector: dict[str, Any]) -> None:
    if server == "alone" and vector["sent"].startswith("//"):
        return  # its WSGI server merges slashes at the root

    def exchange(peer: Peer) -> Iterator[Answer]:
        headers = peer.job.headers("POST", vector["signed"], b"")
        yield peer.job.client.send("POST", vector["sent"], b"", headers)

    (answer,) = peers.agree(exchange)
    assert (answer.status == 200) is vector["is_accepted"]


def test_an_unknown_path_is_no_route_for_a_job(peers: Peers) -> None:
    (answer,) = peers.agree(lambda peer: [peer.job.send("GET", "/nothing")])
    assert answer.error == (404, "no_such_route")


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_requests_of_the_vectors(peers: Peers, vector: dict[str, Any]) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        path, body = vector["path"].replace(vector["job_id"], peer.job.info.job_id), vector["body"].encode()
        yield peer.job.send(vector["method"], path, body, query=vector["query"])
        headers = {
            JOB_ID_HEADER: vector["job_id"],
            TIME_HEADER: vector["time"],
            NONCE_HEADER: vector["nonce"],
        }
        target = vector["path"] + (f"?{vector['query']}" if vector["query"] else "")
        for signed in ({V2_HEADER: f"v2={vector['v2']}"}, {V1_HEADER: vector["v1"]}):
            yield peer.job.client.send(vector["method"], target, body, {**headers, **signed})

    peers.agree(exchange)


# --- signatures


@pytest.mark.parametrize(
    "change",
    [
        {JOB_ID_HEADER: "01890000-0000-7000-8000-000000000000"},
        {JOB_ID_HEADER: "1"},
        {TIME_HEADER: "now"},
        {TIME_HEADER: "9" * 17},
        {NONCE_HEADER: "short"},
        {NONCE_HEADER: "!" * 20},
        {V2_HEADER: "v2=" + "0" * 64},
        {V2_HEADER: "0" * 64},
        {V2_HEADER: ""},
        {V2_HEADER: "", V1_HEADER: "0" * 64},
    ],
    ids=str,
)
def test_a_request_that_is_not_signed(peers: Peers, change: Mapping[str, str]) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        headers = {**peer.job.headers("POST", "/status", b""), **change}
        yield peer.job.client.send("POST", "/status", b"", headers)
        yield peer.job.client.send("POST", "/status", b" " * (1024 * 1024 + 1), headers)

    peers.agree(exchange)


def test_a_header_that_comes_twice(peers: Peers) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        headers = peer.job.headers("POST", "/status", b"")
        for name in headers:
            lines = [f"{key}: {value}" for key, value in (*headers.items(), (name, headers[name]))]
            yield sent_raw(peer.job.client.hook, "POST", "/status", lines)

    peers.agree(exchange)


@pytest.mark.parametrize("minutes", [-6, -4, 4, 6])
def test_a_clock_that_is_wrong(peers: Peers, content: bytes, minutes: int) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        wrong_ms = now_ms() + minutes * 60_000
        yield peer.job.send_v1("POST", "/status", time_text=str(wrong_ms))
        yield peer.job.send("POST", "/status", time_ms=wrong_ms)
        yield peer.announce(content)

    peers.agree(exchange)


def test_v1_until_v2(peers: Peers) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        yield peer.job.send_v1("POST", "/status", {"status": "RUNNING"})
        yield peer.job.send_v1("GET", "/job", job_id=peer.job.info.job_id.upper())
        yield peer.job.send("GET", "/job")
        yield peer.job.send_v1("GET", "/job")

    peers.agree(exchange)


def test_the_hook_itself(peers: Peers) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        for sent in ("", "/"):
            for signed in ("", "/", "//", "/status"):
                yield peer.job.client.send("POST", sent, b"", peer.job.headers("POST", signed, b""))

    answers = peers.agree(exchange)
    assert [answer.status for answer in answers] == [200, 200, 401, 401] * 2


# --- reports


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"\xff",
        b'{"a": 1, "a": 1}',
        b'{"a": NaN}',
        b'{"status": "RUNNING"}',
        b'{"status": "DONE"}',
        b'{"statusDetails": 40}',
        b'{"statusDetails": {"progress": 40, "message": "loading"}}',
        b'{"statusDetails": 101}',
        b'{"statusDetails": {"progress": "40"}, "logs": [{"message": "m", "time": "1700000000000"}]}',
        b'{"statusDetails": {"progress": "half"}}',
        b'{"results": null}',
        b'{"status": "SUCCESS", "results": false}',
        b'{"status": "ERROR", "errorName": "Boom", "errorMessage": "it broke"}',
        b'{"status": "ERROR", "errorName": 1}',
        b'{"errorMessage": []}',
        b'{"logs": ["a", {"message": "b", "level": "warning", "time": 1, "stream": "stdout"}]}',
        b'{"logs": "a"}',
        b'{"logs": [1]}',
        b'{"logs": [{"message": "m", "time": "now"}]}',
        b'{"agent": {"pid": 1}}',
        b'{"agent": "me"}',
        json.dumps({"logs": ["x"] * 1001}).encode(),
        b" " * (1024 * 1024 + 1),
    ],
    ids=lambda body: body[:40].decode(errors="replace"),
)
def test_reports(peers: Peers, body: bytes) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        nonce = new_nonce()
        yield peer.job.send("POST", "/status", body, nonce=nonce)
        yield peer.job.send("POST", "/status", body, nonce=nonce)
        yield peer.job.send("GET", "/job")

    peers.agree(exchange)


def test_a_report_in_chunks(peers: Peers) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        for size in (0, 10, 100_000, 1024 * 1024):
            body = b'{"results":"' + b"x" * size + b'"}'
            pieces = [body[at : at + 7_000] for at in range(0, len(body), 7_000)]
            yield peer.job.client.send("POST", "/status", pieces, peer.job.headers("POST", "/status", body))

    peers.agree(exchange)


def test_nonces(peers: Peers) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        nonce = new_nonce()
        for fields in ({"logs": ["a"]}, {"logs": ["a"]}, {"logs": ["b"]}, {"logs": ["b"]}):
            yield peer.job.report(nonce=nonce, **fields)

    peers.agree(exchange)


@pytest.mark.parametrize("first", ["SUCCESS", "ERROR"])
def test_ends(peers: Peers, first: str) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        for status in (first, first, "ERROR", "SUCCESS", "RUNNING"):
            yield peer.job.report(status=status, results=status, errorName=status, logs=["late"])
        yield peer.job.report()
        yield peer.job.send("GET", "/job")

    peers.agree(exchange)


@pytest.mark.parametrize("vector", ENDS, ids=lambda vector: vector["name"])
def test_a_second_end(peers: Peers, vector: dict[str, Any]) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        nonce = new_nonce()
        yield peer.job.report(nonce=nonce, **vector["first"])
        yield peer.job.report(**vector["second"])
        yield peer.job.report(nonce=nonce, **vector["first"])
        yield peer.job.send("GET", "/job")

    first, second, again, read = peers.agree(exchange)
    assert [first.status, second.status, again.status] == [200, vector["answer"], 200]
    assert second.status == 200 or second.error == (409, "already_ended")
    assert read.fields["results"] == vector["first"].get("results")
    assert read.fields["errorName"] == vector["first"].get("errorName")


def test_an_end_that_comes_after_the_exit(peers: Peers) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        peer.send_message(Exit(code=0))
        yield peer.job.report(status="SUCCESS", results=1)
        yield peer.job.report(status="SUCCESS")

    differs, same = peers.agree(exchange)
    assert (differs.error, same.status) == ((409, "already_ended"), 200)


def test_a_job_of_v1_may_end_twice(peers: Peers) -> None:
    """An existing webda job exits with 1 if a report is refused: what it did well would be an error."""

    def exchange(peer: Peer) -> Iterator[Answer]:
        for fields in ({"results": 1}, {"results": 1}, {"results": 2}, {}):
            yield peer.job.send_v1("POST", "/status", {"status": "SUCCESS", **fields})
        peer.send_message(Exit(code=0))
        yield peer.job.send_v1("POST", "/status", {"status": "SUCCESS", "results": 3})

    answers = peers.agree(exchange)
    assert [(answer.status, answer.fields["results"]) for answer in answers] == [(200, 1)] * 5


@pytest.mark.parametrize(
    "message",
    [Stop(StopReason.REQUESTED), Stop(StopReason.EXECUTION_TIMEOUT), Abandon(), Exit(code=0), Exit(code=3)],
    ids=str,
)
@pytest.mark.parametrize("reported", [None, "SUCCESS", "ERROR"])
def test_what_is_answered_after_a_word_of_the_runner(
    peers: Peers, content: bytes, message: RunnerMessage, reported: str | None
) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        peer.give_input("orders", ORDERS)
        announced = peer.announce(content)
        if reported is not None:
            yield peer.job.report(status=reported)
        peer.send_message(message)
        yield peer.job.report()
        yield peer.job.send("GET", "/job")
        yield peer.announce(content)
        yield peer.put(announced.fields["url"], content)
        yield peer.locate("orders", 0)
        yield peer.job.send("POST", peer.path("upload", "counts", 0, "complete"))
        yield peer.job.report(status="SUCCESS")
        yield peer.job.report(status="ERROR")

    peers.agree(exchange)


# --- outages


def test_too_many_reports(serve: Serve, new_job: NewJob) -> None:
    real = new_job().on(serve(max_requests_per_second=0.01))
    assert real.report().status == 200
    answer = real.report()
    with JobServer() as server, HookClient(server.hook_url) as client:
        server.fail(1, 429, "too_many")
        double = SignedJob.without_task(server.new_job().info, client).report()
    assert answer.error == (429, "too_many")
    assert seen(double) == seen(answer)
