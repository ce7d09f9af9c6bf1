# SPDX-License-Identifier: Apache-2.0
"""The test server responds like the API server: the same requests about files are sent to both."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any
from uuid import uuid4

import pytest

from airflow_asyncaction import protocol
from airflow_asyncaction.protocol.lifecycle import Exit
from tests.integration.file_servers import Serve, one_server_each
from tests.integration.file_transfers import content_request
from tests.integration.peers import ORDERS, SIZE, Peer, Peers, peers_of
from tests.integration.signed_jobs import Answer, NewJob

pytestmark = [pytest.mark.integration, one_server_each]


VECTORS: list[dict[str, Any]] = json.loads((files(protocol) / "vectors/files.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_files_of_the_vectors(peers: Peers, vector: dict[str, Any]) -> None:
    content = bytes(vector["size"]) if vector["content_hex"] is None else bytes.fromhex(vector["content_hex"])
    digests = {"hash": vector["md5"], "challenge": vector["challenge"], "sha256": vector["sha256"]}

    def exchange(peer: Peer) -> Iterator[Answer]:
        announced = peer.announce(content, name="a", **digests)
        if not announced.fields["done"]:  # the API server may have stored it in another test
            assert peer.put(announced.fields["url"], content).status == 200
        yield peer.announce(content, name="a", **digests)
        yield peer.locate("counts", 0)
        yield peer.locate("counts", 1)

    answers = peers.agree(exchange)
    assert [answer.status for answer in answers] == [200, 200, 404]


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
def test_announcements(peers: Peers, content: bytes, fields: Mapping[str, Any]) -> None:
    peers.agree(lambda peer: [peer.announce(content, **fields)])


@pytest.mark.parametrize("fields", [{"status": "SUCCESS", "results": 1}, {"status": "ERROR"}], ids=str)
def test_a_job_may_upload_after_its_own_end_until_its_process_has_ended(
    peers: Peers, content: bytes, fields: Mapping[str, Any]
) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        yield peer.job.report(**fields)
        yield from peer.upload(content)
        yield peer.locate("counts", 0)
        peer.send_message(Exit(code=0))
        yield peer.announce(content, name="late")

    *answers, late = peers.agree(exchange)
    assert [answer.status for answer in answers] == [200] * 4
    assert late.error == (409, "already_ended")


@pytest.mark.parametrize("property_", ["a-b", "1a", "x" * 65, "x" * 64, "_", "%20", "a%2Fb", "out%20puts"])
def test_names_of_properties(peers: Peers, content: bytes, property_: str) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        yield peer.announce(content, path=peer.path("upload", property_))
        yield peer.locate(property_, 0)
        yield peer.job.send("POST", peer.path("upload", property_, 0, "complete"))

    peers.agree(exchange)


@pytest.mark.parametrize(
    "place",
    [{"store": "nowhere"}, {"of": str(uuid4())}, {"of": "me"}, {"of": str(uuid4()), "store": "nowhere"}],
    ids=["store", "uuid", "no uuid", "both"],
)
def test_places_that_are_not_the_jobs(peers: Peers, content: bytes, place: dict[str, str]) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        yield peer.announce(content, path=peer.path("upload", "counts", **place))
        yield peer.announce(content, hash="x", path=peer.path("upload", "counts", **place))
        yield peer.locate("counts", 0, **place)
        yield peer.job.send("POST", peer.path("upload", "counts", 0, "complete", **place))

    peers.agree(exchange)


def test_an_upload_and_a_download(peers: Peers, content: bytes) -> None:
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

    peers.agree(exchange)


def test_files_are_numbered_and_may_be_announced_again(peers: Peers) -> None:
    contents = [secrets.token_bytes(1000) for _ in range(5)]

    def exchange(peer: Peer) -> Iterator[Answer]:
        first = peer.announce(contents[0], name="a")
        yield first
        yield peer.announce(contents[0], name="a")
        yield peer.announce(contents[1], name="a")  # announced again, as it was not uploaded
        yield peer.put(first.fields["url"], contents[0])  # which the earlier URL is not for
        yield peer.announce(contents[1], name="a")
        yield peer.announce(contents[2])
        yield peer.announce(contents[3])
        yield from peer.upload(contents[2])
        yield from peer.upload(contents[1], name="a")
        yield peer.announce(contents[4], name="a")  # it has arrived: another file of that name
        yield peer.announce(contents[1], name="a")

    peers.agree(exchange)


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
    ids=["reversed", "shorter", "empty", "longer", "longer, of any size", "size", "sha256", "challenge"],
)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_content_that_is_not_as_announced(
    peers: Peers,
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

    peers.agree(exchange)


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
def test_parts_of_a_content(peers: Peers, headers: Mapping[str, str]) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        peer.give_input("orders", ORDERS)
        url = peer.locate("orders", 0).fields["Location"]
        for method in ("GET", "HEAD"):
            yield content_request(peer.job.client, method, url, b"", headers)

    peers.agree(exchange)


def test_urls_of_contents_are_for_one_method(peers: Peers, content: bytes) -> None:
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

    peers.agree(exchange)


def test_inputs_are_not_the_jobs_to_leave(peers: Peers, content: bytes) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        peer.give_input("orders", ORDERS)
        yield peer.locate("orders", 0)
        yield peer.announce(content, path=peer.path("upload", "orders"))
        yield peer.announce(ORDERS, path=peer.path("upload", "orders"), name="orders.csv")
        yield peer.job.send("POST", peer.path("upload", "orders", 0, "complete"))
        yield peer.announce(ORDERS)  # stored already

    answers = peers.agree(exchange)
    assert answers[1].error == (409, "property_taken")


def test_too_many_files(serve: Serve, new_job: NewJob) -> None:
    def exchange(peer: Peer) -> Iterator[Answer]:
        for content in (b"1", b"2", b"3", b"1"):
            yield peer.announce(content)

    with peers_of(
        new_job().on(serve(max_files=2, max_file_bytes=100)), max_files=2, max_file_bytes=100
    ) as peers:
        answers = peers.agree(exchange)
        peers.agree(lambda peer: [peer.announce(b"x" * 101)])
    assert answers[2].error == (409, "too_many_files")
