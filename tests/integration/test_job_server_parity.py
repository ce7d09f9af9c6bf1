# SPDX-License-Identifier: Apache-2.0
"""The server that ships for tests answers as the API server does: the same requests, sent to both."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from uuid import uuid4

import pytest

from airflow_asyncaction import protocol
from airflow_asyncaction.protocol.actions import StopReason
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Stop
from airflow_asyncaction.protocol.signing import (
    JOB_ID_HEADER,
    NONCE_HEADER,
    TIME_HEADER,
    V1_HEADER,
    V2_HEADER,
)
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.protocol.tasks import Word
from airflow_asyncaction.testing import JobServer
from tests.integration.file_servers import Serve, one_server_each
from tests.integration.file_transfers import announcement, content_request, give_input
from tests.integration.seen_answers import seen
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob, new_nonce, now_ms, sent_raw

pytestmark = [pytest.mark.integration, one_server_each]

VECTORS: list[dict[str, Any]] = json.loads((files(protocol) / "vectors/signing.json").read_text())
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ORDERS = b"orders of one day\n"
SIZE = 100


@dataclass(frozen=True)
class Peer:
    """A job on one of the servers, and what its task and runner can do."""

    job: SignedJob
    tell: Callable[[Word], object]
    give_input: Callable[[str, bytes], None]

    def path(self, verb: str, *rest: object, store: str = "default", of: str | None = None) -> str:
        """Return the path of a request about files."""
        return "/".join(["", verb, store, of or self.job.info.job_id, *map(str, rest)])

    def announce(self, content: bytes, *, path: str | None = None, **fields: Any) -> Answer:
        return self.job.send("PUT", path or self.path("upload", "counts"), announcement(content, **fields))

    def put(self, url: str, content: bytes | Iterable[bytes]) -> Answer:
        return content_request(self.job.client, "PUT", url, content)

    def upload(self, content: bytes, **fields: Any) -> Iterator[Answer]:
        announced = self.announce(content, **fields)
        yield announced
        yield self.put(announced.fields["url"], content)

    def locate(self, *rest: object, **place: Any) -> Answer:
        return self.job.send("GET", self.path("download", *rest, **place))


Exchange = Callable[[Peer], Iterable[Answer]]


@pytest.fixture
def content() -> bytes:
    """Return a content that nobody has stored."""
    return secrets.token_bytes(SIZE)


@pytest.fixture
def real(new_job: NewJob) -> Peer:
    job = new_job(arguments=JsonText('{"day":1}'))
    return Peer(job, job.tell, lambda name, content: give_input(job, name, content, name=f"{name}.csv"))


@pytest.fixture
def double() -> Iterator[Peer]:
    with double_of() as peer:
        yield peer


@contextmanager
def double_of(**options: Any) -> Iterator[Peer]:
    with JobServer(**options) as server, HookClient(server.hook) as client:
        tested = server.new_job({"day": 1})
        yield Peer(
            SignedJob(tested.info, client),
            tested.tell,
            lambda name, content: tested.add_file(name, f"{name}.csv", content),
        )


def agree(real: Peer, double: Peer, exchange: Exchange) -> list[Answer]:
    """Let both have the same exchange; return the API server's answers."""
    answers = list(exchange(real))
    assert [seen(answer) for answer in exchange(double)] == [seen(answer) for answer in answers]
    return answers


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
    ],
)
@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "unsigned"])
def test_every_method_of_every_route(real: Peer, double: Peer, path: str, is_signed: bool) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        sent = path.format(id=peer.job.info.job_id)
        for method in METHODS:
            yield peer.job.send(method, sent) if is_signed else peer.job.client.send(method, sent)

    answers = agree(real, double, exchange)
    assert all(answer.status < 500 for answer in answers)


def test_a_job_finds_no_route_of_a_name_that_is_none(real: Peer, double: Peer) -> None:
    (answer,) = agree(real, double, lambda peer: [peer.job.send("GET", "/nothing")])
    assert answer.error == (404, "no_such_route")


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_requests_of_the_vectors(real: Peer, double: Peer, vector: dict[str, Any]) -> None:
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

    agree(real, double, exchange)


# --- signatures


@pytest.mark.parametrize(
    "change",
    [
        {JOB_ID_HEADER: str(uuid4())},
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
def test_a_request_that_is_not_signed(real: Peer, double: Peer, change: Mapping[str, str]) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        headers = {**peer.job.headers("POST", "/status", b""), **change}
        yield peer.job.client.send("POST", "/status", b"", headers)
        yield peer.job.client.send("POST", "/status", b" " * (1024 * 1024 + 1), headers)

    agree(real, double, exchange)


def test_a_header_that_comes_twice(real: Peer, double: Peer) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        headers = peer.job.headers("POST", "/status", b"")
        for name in headers:
            lines = [f"{key}: {value}" for key, value in (*headers.items(), (name, headers[name]))]
            yield sent_raw(peer.job.client.hook, "POST", "/status", lines)

    agree(real, double, exchange)


@pytest.mark.parametrize("minutes", [-6, -4, 4, 6])
def test_a_clock_that_is_wrong(real: Peer, double: Peer, content: bytes, minutes: int) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        wrong_ms = now_ms() + minutes * 60_000
        yield peer.job.send_v1("POST", "/status", time_text=str(wrong_ms))
        yield peer.job.send("POST", "/status", time_ms=wrong_ms)
        yield peer.announce(content)

    agree(real, double, exchange)


def test_v1_until_v2(real: Peer, double: Peer) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        yield peer.job.send_v1("POST", "/status", {"status": "RUNNING"})
        yield peer.job.send_v1("GET", "/job", job_id=peer.job.info.job_id.upper())
        yield peer.job.send("GET", "/job")
        yield peer.job.send_v1("GET", "/job")

    agree(real, double, exchange)


def test_the_hook_itself(real: Peer, double: Peer) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        for sent in ("", "/"):
            for signed in ("", "/", "//", "/status"):
                yield peer.job.client.send("POST", sent, b"", peer.job.headers("POST", signed, b""))

    answers = agree(real, double, exchange)
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
        b'{"statusDetails": {"progress": "40"}}',
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
def test_reports(real: Peer, double: Peer, body: bytes) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        nonce = new_nonce()
        yield peer.job.send("POST", "/status", body, nonce=nonce)
        yield peer.job.send("POST", "/status", body, nonce=nonce)
        yield peer.job.send("GET", "/job")

    agree(real, double, exchange)


def test_a_report_in_chunks(real: Peer, double: Peer) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        for size in (0, 10, 100_000, 1024 * 1024):
            body = b'{"results":"' + b"x" * size + b'"}'
            pieces = [body[at : at + 7_000] for at in range(0, len(body), 7_000)]
            yield peer.job.client.send("POST", "/status", pieces, peer.job.headers("POST", "/status", body))

    agree(real, double, exchange)


def test_nonces(real: Peer, double: Peer) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        nonce = new_nonce()
        for fields in ({"logs": ["a"]}, {"logs": ["a"]}, {"logs": ["b"]}, {"logs": ["b"]}):
            yield peer.job.report(nonce=nonce, **fields)

    agree(real, double, exchange)


@pytest.mark.parametrize("first", ["SUCCESS", "ERROR"])
def test_ends(real: Peer, double: Peer, first: str) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        for status in (first, first, "ERROR", "SUCCESS", "RUNNING"):
            yield peer.job.report(status=status, results=status, errorName=status, logs=["late"])
        yield peer.job.report()
        yield peer.job.send("GET", "/job")

    agree(real, double, exchange)


@pytest.mark.parametrize(
    "word",
    [Stop(StopReason.REQUESTED), Stop(StopReason.EXECUTION_TIMEOUT), Abandon(), Exit(code=0), Exit(code=3)],
    ids=str,
)
@pytest.mark.parametrize("reported", [None, "SUCCESS", "ERROR"])
def test_what_is_answered_after_a_word_of_the_runner(
    real: Peer, double: Peer, content: bytes, word: Word, reported: str | None
) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        peer.give_input("orders", ORDERS)
        announced = peer.announce(content)
        if reported is not None:
            yield peer.job.report(status=reported)
        peer.tell(word)
        yield peer.job.report()
        yield peer.job.send("GET", "/job")
        yield peer.announce(content)
        yield peer.put(announced.fields["url"], content)
        yield peer.locate("orders", 0)
        yield peer.job.send("POST", peer.path("upload", "counts", 0, "complete"))
        yield peer.job.report(status="SUCCESS")
        yield peer.job.report(status="ERROR")

    agree(real, double, exchange)


# --- files


@pytest.mark.parametrize(
    "fields",
    [
        {"hash": None},
        {"hash": "x"},
        {"challenge": None},
        {"sha256": "0"},
        {"size": -1},
        {"size": "100"},
        {"size": 6 * 1024**3},
        {"size": None, "sha256": None},
        {"name": "../x"},
        {"name": "a/b.csv"},
        {"name": ""},
        {"name": "x" * 256},
        {"mimetype": "text"},
        {"mimetype": "text/csv; charset=utf-8"},
        {"metadata": []},
        {"metadata": {"a": [1, {"b": None}]}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_announcements(real: Peer, double: Peer, content: bytes, fields: Mapping[str, Any]) -> None:
    agree(real, double, lambda peer: [peer.announce(content, **fields)])


@pytest.mark.parametrize("property_", ["a-b", "1a", "x" * 65, "x" * 64, "_", "%20", "a%2Fb", "out%20puts"])
def test_names_of_properties(real: Peer, double: Peer, content: bytes, property_: str) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        yield peer.announce(content, path=peer.path("upload", property_))
        yield peer.locate(property_, 0)
        yield peer.job.send("POST", peer.path("upload", property_, 0, "complete"))

    agree(real, double, exchange)


@pytest.mark.parametrize(
    "place",
    [{"store": "nowhere"}, {"of": str(uuid4())}, {"of": "me"}, {"of": str(uuid4()), "store": "nowhere"}],
    ids=["store", "uuid", "no uuid", "both"],
)
def test_places_that_are_not_the_jobs(
    real: Peer, double: Peer, content: bytes, place: dict[str, str]
) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        yield peer.announce(content, path=peer.path("upload", "counts", **place))
        yield peer.announce(content, hash="x", path=peer.path("upload", "counts", **place))
        yield peer.locate("counts", 0, **place)
        yield peer.job.send("POST", peer.path("upload", "counts", 0, "complete", **place))

    agree(real, double, exchange)


def test_an_upload_and_a_download(real: Peer, double: Peer, content: bytes) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        yield peer.locate("counts", 0)
        yield peer.job.send("POST", peer.path("upload", "counts", 0, "complete"))
        announced = peer.announce(content, name="a/counts.csv", mimetype="text/csv", metadata={"rows": 3})
        yield announced
        yield peer.job.send("POST", peer.path("upload", "counts", 0, "complete"))
        yield peer.locate("counts", 0)
        yield peer.put(announced.fields["url"], content)
        yield peer.put(announced.fields["url"], content)  # once more
        yield peer.job.send("POST", peer.path("upload", "counts", 0, "complete"))
        yield peer.announce(content, name="a/counts.csv")
        yield peer.announce(content, name="another")
        yield peer.announce(content)
        located = peer.locate("counts", 0)
        yield located
        yield content_request(peer.job.client, "GET", located.fields["Location"])
        yield peer.job.send("GET", peer.path("download", "counts", 0), query="redirect=true")
        yield peer.job.send("GET", peer.path("download", "counts", 0), query="redirect=false&a=%20b")
        yield peer.locate("counts", 1)
        yield peer.locate("counts", 9)

    agree(real, double, exchange)


def test_files_are_numbered_and_may_be_announced_anew(real: Peer, double: Peer) -> None:
    contents = [secrets.token_bytes(1000) for _ in range(5)]

    def exchange(peer: Peer) -> Iterator[Answer]:
        first = peer.announce(contents[0], name="a")
        yield first
        yield peer.announce(contents[0], name="a")
        yield peer.announce(contents[1], name="a")  # it has not arrived: it is announced anew
        yield peer.put(first.fields["url"], contents[0])  # which the earlier URL is not for
        yield peer.announce(contents[1], name="a")
        yield peer.announce(contents[2])
        yield peer.announce(contents[3])
        yield from peer.upload(contents[2])
        yield from peer.upload(contents[1], name="a")
        yield peer.announce(contents[4], name="a")  # it has arrived: another file of that name
        yield peer.announce(contents[1], name="a")

    agree(real, double, exchange)


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ({}, lambda content: content[::-1] + b"x"),
        ({}, lambda content: content[1:]),
        ({}, lambda _: b""),
        ({}, lambda content: content + b"more"),
        ({"size": None}, lambda content: content + b"more"),
        ({"size": SIZE + 1}, lambda content: content),
        ({"sha256": "0" * 64}, lambda content: content),
        ({"challenge": "0" * 32}, lambda content: content),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_content_that_is_not_as_announced(
    real: Peer,
    double: Peer,
    content: bytes,
    fields: Mapping[str, Any],
    change: Callable[[bytes], bytes],
    is_chunked: bool,
) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        sent, url = change(content), peer.announce(content, **fields).fields["url"]
        yield peer.put(url, [sent[:3], sent[3:]] if is_chunked and len(sent) > 3 else sent)
        yield peer.put(url, content)
        yield peer.announce(content, **fields)

    agree(real, double, exchange)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Range": "bytes=0-"},
        {"Range": "bytes=3-5"},
        {"Range": "bytes=5-3"},
        {"Range": "bytes=-4"},
        {"Range": "bytes=-0"},
        {"Range": "bytes=100-"},
        {"Range": "bytes=0-1,3-4"},
        {"Range": "lines=1-"},
        {"Range": "bytes=3-", "If-Range": '"other"'},
    ],
    ids=str,
)
def test_parts_of_a_content(real: Peer, double: Peer, headers: Mapping[str, str]) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        peer.give_input("orders", ORDERS)
        url = peer.locate("orders", 0).fields["Location"]
        for method in ("GET", "HEAD"):
            yield content_request(peer.job.client, method, url, b"", headers)

    agree(real, double, exchange)


def test_urls_of_contents_are_for_one_method(real: Peer, double: Peer, content: bytes) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        peer.give_input("orders", ORDERS)
        to_put = peer.announce(content).fields["url"]
        to_get = peer.locate("orders", 0).fields["Location"]
        for url in (to_put, to_get, to_get + "x"):
            yield content_request(peer.job.client, "GET", url)
            yield content_request(peer.job.client, "HEAD", url)
            yield content_request(peer.job.client, "PUT", url, content[::-1])
            yield content_request(peer.job.client, "POST", url, content)
            yield content_request(peer.job.client, "DELETE", url)

    agree(real, double, exchange)


def test_inputs_are_not_the_jobs_to_leave(real: Peer, double: Peer, content: bytes) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        peer.give_input("orders", ORDERS)
        yield peer.locate("orders", 0)
        yield peer.announce(content, path=peer.path("upload", "orders"))
        yield peer.announce(ORDERS, path=peer.path("upload", "orders"), name="orders.csv")
        yield peer.job.send("POST", peer.path("upload", "orders", 0, "complete"))
        yield peer.announce(ORDERS)  # stored already

    answers = agree(real, double, exchange)
    assert answers[1].error == (409, "property_taken")


def test_too_many_files(serve: Serve, new_job: NewJob) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        for content in (b"1", b"2", b"3", b"1"):
            yield peer.announce(content)

    real = new_job().on(serve(max_files=2, max_file_bytes=100))
    with double_of(max_files=2, max_file_bytes=100) as double:
        answers = agree(Peer(real, real.tell, lambda *_: None), double, exchange)
        agree(Peer(real, real.tell, lambda *_: None), double, lambda peer: [peer.announce(b"x" * 101)])
    assert answers[2].error == (409, "too_many_files")


# --- outages


def test_too_many_reports(serve: Serve, new_job: NewJob) -> None:
    real = new_job().on(serve(max_reports_per_second=0.01))
    assert real.report().status == 200
    answer = real.report()
    with JobServer() as server, HookClient(server.hook) as client:
        server.fail(1, 429, "too_many")
        double = SignedJob(server.new_job().info, client).report()
    assert answer.error == (429, "too_many")
    assert seen(double) == seen(answer)
