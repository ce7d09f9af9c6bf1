# SPDX-License-Identifier: Apache-2.0
"""Files through the API server: announce, upload, attach, download."""

from __future__ import annotations

import gzip
import hashlib
import re
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.http import parse_options_header

from airflow_asyncaction import settings
from airflow_asyncaction.protocol.digests import digests
from tests.integration.file_servers import Folder
from tests.integration.file_transfers import (
    COLLIDING,
    announce,
    announcement,
    content_request,
    download,
    locate,
    outputs,
    put_content,
    upload,
)
from tests.integration.servers import PREFIX, served_mounted
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob, sent_raw

pytestmark = pytest.mark.integration

SIZE = 1000


def in_pieces(content: bytes, size: int = 70_000) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def path_of(job: SignedJob, url: str) -> str:
    return url.removeprefix(job.client.hook)


# --- there and back


@pytest.mark.parametrize("size", [0, 1, 10_000, 5 * 1024 * 1024 + 7])
def test_what_is_uploaded_can_be_downloaded(own_job: SignedJob, size: int) -> None:
    content = secrets.token_bytes(size)
    announced = announce(own_job, "model", content)
    url = announced.fields.pop("url")
    assert announced.fields == {"done": False, "index": 0, "url": url, "method": "PUT", "complete": False}
    sent = put_content(own_job, url, content)
    assert sent.fields["done"] is True
    found = download(own_job, "model")
    assert found.content == content
    assert found.map == sent.fields["Map"]
    assert (found.map["size"], found.map["sha256"]) == (size, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("size", [0, 1, 2_000_003])
def test_a_content_may_come_in_chunks_without_a_length(own_job: SignedJob, size: int) -> None:
    content = secrets.token_bytes(size)
    announced = announce(own_job, "model", content, size=None, sha256=None)
    assert put_content(own_job, announced.fields["url"], in_pieces(content)).status == 200
    assert download(own_job, "model").content == content


def test_what_is_announced_of_a_file_is_kept(job: SignedJob) -> None:
    said = {"name": "a/ü b.bin", "mimetype": "text/x-y; charset=utf-8", "metadata": {"a": [1, {"é": None}]}}
    content = secrets.token_bytes(SIZE)
    upload(job, "model", content, **said)
    assert download(job, "model").map == {
        **said,
        "size": SIZE,
        "hash": digests([content]).md5,
        "sha256": digests([content]).sha256,
        "index": 0,
    }


def test_what_is_not_announced_of_a_file_is_made_up(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    upload(job, "model", content, size=None, sha256=None, metadata=None)
    found = download(job, "model").map
    assert (found["name"], found["mimetype"], found["metadata"]) == ("model", "application/octet-stream", {})
    assert (found["size"], found["sha256"]) == (SIZE, digests([content]).sha256)


def test_the_files_of_a_property_are_numbered_as_they_are_announced(job: SignedJob) -> None:
    contents = [secrets.token_bytes(SIZE) for _ in range(3)]
    urls = []
    for index, content in enumerate(contents):
        announced = announce(job, "model", content, name=f"part{index}")
        assert announced.fields["index"] == index
        urls.append(announced.fields["url"])
    for content, url in reversed(list(zip(contents, urls, strict=True))):
        assert put_content(job, url, content).status == 200
    assert [download(job, "model", index).content for index in range(3)] == contents
    assert upload(job, "other", contents[0]) == 0


def test_a_download_may_be_redirected(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    upload(job, "model", content)
    path = f"/download/default/{job.info.job_id}/model/0"
    answer = job.send("GET", path, query="redirect=true")
    assert answer.status == 302
    assert content_request(job.client, "GET", answer.headers["location"]).body == content
    assert job.send("GET", path, query="redirect=false").status == 200


def test_a_job_that_signs_with_v1_has_files_as_well(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    announced = job.send_v1("PUT", f"/upload/default/{job.info.job_id}/model", announcement(content))
    assert put_content(job, announced.fields["url"], content).status == 200
    located = job.send_v1("GET", f"/download/default/{job.info.job_id}/model/0")
    assert content_request(job.client, "GET", located.fields["Location"]).body == content


def test_a_content_is_moved_without_any_header(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    url = announce(job, "model", content).fields["url"]
    sent = sent_raw(job.client.hook, "PUT", path_of(job, url), [f"Content-Length: {SIZE}"], content)
    assert (sent.status, sent.fields["done"]) == (200, True)
    location = locate(job, "model").fields["Location"]
    assert sent_raw(job.client.hook, "GET", path_of(job, location), []).body == content


@pytest.mark.parametrize("kept", [PREFIX, ""], ids=["kept", "stripped"])
def test_a_content_passes_a_proxy_that_adds_a_prefix(new_job: NewJob, kept: str) -> None:
    content = secrets.token_bytes(SIZE)
    with served_mounted(root_path=PREFIX) as url, HookClient(url + kept + settings.load().url) as client:
        job = new_job().on(client)
        to_put = announce(job, "model", content).fields["url"]
        assert to_put.startswith(url + PREFIX + settings.load().url)
        path = "/content/" + to_put.rpartition("/")[2]
        assert client.send("PUT", path, content).status == 200
        path = "/content/" + locate(job, "model").fields["Location"].rpartition("/")[2]
        assert client.send("GET", path).body == content


# --- what is there already


def test_a_content_that_is_stored_is_not_sent_again(new_job: NewJob) -> None:
    content = secrets.token_bytes(SIZE)
    upload(new_job(), "a", content, name="first")
    job = new_job()
    assert announce(job, "b", content, name="second").fields == {"done": True, "index": 0}
    found = download(job, "b")
    assert (found.content, found.map["name"]) == (content, "second")


def test_a_content_that_is_stored_is_known_without_its_sha256(new_job: NewJob) -> None:
    content = secrets.token_bytes(SIZE)
    upload(new_job(), "a", content, sha256=None, size=None)
    job = new_job()
    assert announce(job, "b", content, sha256=None, size=None).fields == {"done": True, "index": 0}
    assert download(job, "b").content == content


def test_a_file_that_is_announced_twice_is_one(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    first, second = announce(job, "model", content), announce(job, "model", content)
    assert (first.fields["index"], second.fields["index"], second.fields["done"]) == (0, 0, False)
    assert put_content(job, second.fields["url"], content).status == 200
    assert announce(job, "model", content).fields == {"done": True, "index": 0}
    assert [file["index"] for file in outputs(job)] == [0]


def test_contents_that_collide_stay_two(own_job: SignedJob, folder: Folder) -> None:
    first, second = (digests([content]) for content in COLLIDING)
    assert (first.md5, len({first.sha256, second.sha256})) == (second.md5, 2)
    upload(own_job, "model", COLLIDING[0], name="a", sha256=None)
    assert announce(own_job, "model", COLLIDING[1], name="b", sha256=None).fields["done"] is False
    upload(own_job, "model", COLLIDING[1], name="b", sha256=None)
    assert tuple(download(own_job, "model", index).content for index in (0, 1)) == COLLIDING
    assert len(folder.contents()) == 2


def test_a_content_cannot_pass_for_the_one_it_collides_with(own_job: SignedJob) -> None:
    upload(own_job, "model", COLLIDING[0], name="a")
    stolen = digests([COLLIDING[0]]).challenge
    announced = announce(own_job, "other", COLLIDING[1], challenge=stolen)
    assert announced.fields["done"] is False
    assert put_content(own_job, announced.fields["url"], COLLIDING[1]).error == (412, "hash_mismatch")
    assert locate(own_job, "other").error == (404, "no_such_file")


@pytest.mark.parametrize("with_size", [True, False])
@pytest.mark.parametrize("with_sha256", [True, False])
def test_who_has_not_the_content_cannot_have_it_by_its_hash(
    new_job: NewJob, with_size: bool, with_sha256: bool
) -> None:
    content = secrets.token_bytes(SIZE)
    upload(new_job(), "model", content)
    thief, found = new_job(), digests([content])
    known: dict[str, Any] = {
        "size": SIZE if with_size else None,
        "sha256": found.sha256 if with_sha256 else None,
    }
    made_up = secrets.token_hex(16)
    answer = announce(thief, "loot", content, challenge=made_up, **known)
    assert answer.fields["done"] is False
    assert locate(thief, "loot").error == (404, "no_such_file")
    sent = put_content(thief, answer.fields["url"], secrets.token_bytes(SIZE))
    assert sent.error == (412, "hash_mismatch")
    assert locate(thief, "loot").error == (404, "no_such_file")
    for body in (answer.body, sent.body):
        assert str(found.challenge).encode() not in body
        assert found.sha256.encode() not in body


def test_nothing_tells_a_challenge(job: SignedJob) -> None:
    content = secrets.token_bytes(SIZE)
    challenge = str(digests([content]).challenge).encode()
    announced = announce(job, "model", content)
    sent = put_content(job, announced.fields["url"], content)
    said = [announced, sent, locate(job, "model"), job.send("GET", "/task/outputs"), job.send("GET", "/job")]
    assert not any(challenge in answer.body for answer in said)


# --- parts of a content


class Stored:
    """Stored content, and requests for parts of it."""

    def __init__(self, job: SignedJob, **fields: Any) -> None:
        self.content = secrets.token_bytes(SIZE)
        upload(job, "model", self.content, **fields)
        self._client = job.client
        self._url = locate(job, "model").fields["Location"]

    def get(self, method: str = "GET", **headers: str) -> Answer:
        """Download it with these headers, with underscores instead of hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return content_request(self._client, method, self._url, headers=named)


@pytest.fixture
def stored(job: SignedJob) -> Stored:
    return Stored(job)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        (f"bytes=-{SIZE + 1}", 0, SIZE),  # RFC 9110, 14.1.2: all of it
        (f"bytes=990-{SIZE * 2}", 990, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
    ],
)
def test_a_part_can_be_had(stored: Stored, asked: str, start: int, stop: int) -> None:
    answer = stored.get(Range=asked)
    assert answer.status == 206
    assert answer.body == stored.content[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize(
    "asked", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", f"bytes={10**30}-", "bytes=-0"]
)
def test_a_part_that_is_not_there_cannot_be_had(stored: Stored, asked: str) -> None:
    answer = stored.get(Range=asked)
    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,5-6",
        "bytes=5-2",
        "bytes=x-y",
        "bytes=",
        "bytes",
        "=",
        "lines=0-1",
        "bytes=--5",
        "bytes=\xb2-",
    ],
)
def test_what_is_no_single_part_is_answered_with_all(stored: Stored, asked: str) -> None:
    answer = stored.get(Range=asked)
    assert (answer.status, answer.body) == (200, stored.content)


def test_a_part_depends_on_the_etag(stored: Stored) -> None:
    etag = stored.get().headers["etag"]
    assert etag == f'"{digests([stored.content]).sha256}"'
    assert stored.get(Range="bytes=0-0", If_Range=etag).status == 206
    for other in ('"x"', f"W/{etag}", "Mon, 01 Jan 2024 00:00:00 GMT"):
        answer = stored.get(Range="bytes=0-0", If_Range=other)
        assert (answer.status, answer.body) == (200, stored.content)


def test_an_empty_content_has_no_parts(own_job: SignedJob) -> None:
    upload(own_job, "model", b"")
    url = locate(own_job, "model").fields["Location"]
    assert content_request(own_job.client, "GET", url, headers={"Range": "bytes=0-0"}).status == 416


def test_a_head_tells_of_the_content(stored: Stored) -> None:
    head, got = stored.get("HEAD"), stored.get()
    assert (head.status, head.body) == (200, b"")
    for name in ("content-length", "etag", "content-type", "accept-ranges", "content-disposition"):
        assert head.headers[name] == got.headers[name]
    assert stored.get("HEAD", Range="bytes=0-0").headers["content-length"] == "1"


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "OPTIONS"])
def test_a_content_has_no_other_methods(stored: Stored, method: str) -> None:
    answer = stored.get(method)
    assert answer.error == (405, "method_not_allowed")
    assert {"GET", "PUT"} <= set(re.split(r",\s*", answer.headers["allow"]))


def test_a_browser_does_nothing_with_a_content_but_save_it(job: SignedJob) -> None:
    stored = Stored(job, name='a/é "x";漢.html', mimetype="text/html")
    headers = stored.get().headers
    assert headers["content-disposition"].startswith("attachment;")
    assert parse_options_header(headers["content-disposition"])[1]["filename"] == 'é "x";漢.html'
    assert headers["content-type"] == "text/html"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox"
    assert headers["cache-control"] == "no-store"
    assert headers["accept-ranges"] == "bytes"


def test_a_content_is_not_compressed(job: SignedJob) -> None:
    content = secrets.token_hex(8).encode() + b"\0" * 100_000
    upload(job, "model", content, mimetype="text/plain")
    url = locate(job, "model").fields["Location"]
    answer = content_request(job.client, "GET", url, headers={"Accept-Encoding": "gzip"})
    assert answer.body == content
    assert answer.headers["content-encoding"] == "identity"
    assert answer.headers["content-length"] == str(len(content))


def test_a_content_that_is_compressed_comes_back_so(job: SignedJob) -> None:
    content = gzip.compress(secrets.token_bytes(SIZE))
    upload(job, "model", content, mimetype="application/gzip")
    assert download(job, "model").content == content
