# SPDX-License-Identifier: Apache-2.0
"""Files on S3: transferred directly, and verified and attached by a server that does not read them."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from airflow.sdk import ObjectStoragePath

from airflow_asyncaction import settings
from airflow_asyncaction.files.stores.base import FileStore
from airflow_asyncaction.services import Services, open_services
from dev.processes import free_ports
from dev.s3 import REGION, S3Server
from tests.integration.databases import Database
from tests.integration.file_servers import SERVERS, served_files
from tests.integration.file_transfers import COLLIDING, announce, announcement, locate, outputs
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob
from tests.requirements import s3_or_skip

pytestmark = pytest.mark.integration

BUCKET = "lake"
SIZE = 1000
PART = 5 * 1024 * 1024
VALID_FOR = timedelta(minutes=7)


@pytest.fixture(scope="session")  # Airflow keeps what it made of the connection as long as the process lives
def s3() -> Iterator[S3Server]:
    with s3_or_skip() as server, pytest.MonkeyPatch.context() as patch:
        server.create_bucket(BUCKET)
        patch.setenv("AIRFLOW_CONN_AWS_TEST", server.connection)
        yield server


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def url(database: Database, server: str) -> str:
    """Return the URL of an empty prefix."""
    return f"s3://aws_test@{BUCKET}/some/{database.name}-{server}"


@pytest.fixture(scope="module")
def services(s3: S3Server, server: str, url: str) -> Services:  # noqa: ARG001
    stores = {f"lake-{server}": url}
    return open_services(replace(settings.load(), file_stores=stores, file_url_valid_for=VALID_FOR))


@pytest.fixture(scope="module")
def store(services: Services) -> FileStore:
    return services.stores.get("default")


@pytest.fixture(scope="module")
def hook(server: str, services: Services) -> Iterator[str]:
    with served_files(server, services) as hook:
        yield hook


@contextmanager
def served_with(job: SignedJob, url: str) -> Iterator[SignedJob]:
    """Serve another store, and connect the job to that server."""
    services = open_services(replace(settings.load(), file_stores={"lake": url}))
    with served_files("alone", services) as hook, HookClient(hook) as client:
        yield job.on(client)


def to_s3(
    s3: S3Server, method: str, url: str, content: bytes = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a request to a pre-signed URL."""
    assert url.startswith(s3.url + "/"), url
    with HookClient(s3.url) as client:
        return client.send(method, url[len(s3.url) :], content, headers)


def send(job: SignedJob, s3: S3Server, property_: str, content: bytes, **fields: Any) -> str:
    """Announce content and upload it. Return the URL."""
    answer = announce(job, property_, content, **fields)
    assert answer.status == 200, answer
    assert (answer.fields["done"], answer.fields["complete"], answer.fields["method"]) == (False, True, "PUT")
    url = answer.fields["url"]
    assert to_s3(s3, "PUT", url, content).status == 200
    assert isinstance(url, str)
    return url


def complete(job: SignedJob, property_: str, index: int = 0) -> Answer:
    return job.send("POST", f"/upload/default/{job.info.job_id}/{property_}/{index}/complete")


def leave(job: SignedJob, s3: S3Server, property_: str, content: bytes, **fields: Any) -> str:
    """Upload a file, and return the URL of its content."""
    url = send(job, s3, property_, content, **fields)
    answer = complete(job, property_)
    assert answer.status == 200, answer
    return url


def had(job: SignedJob, s3: S3Server, property_: str, index: int = 0) -> bytes:
    """Download a file."""
    located = locate(job, property_, index)
    assert located.status == 200, located
    answer = to_s3(s3, "GET", located.fields["Location"])
    assert answer.status == 200, answer
    return answer.body


def keys(s3: S3Server, text: str = "") -> set[str]:
    """Return the keys in the bucket that contain a text, as S3 lists them."""
    listed = to_s3(s3, "GET", f"{s3.url}/{BUCKET}?list-type=2")
    assert b"<IsTruncated>false" in listed.body
    return {key for key in re.findall("<Key>([^<]+)</Key>", listed.body.decode()) if text in key}


def keep(store: FileStore, content: bytes) -> str:
    """Store content that no file refers to, and return its id."""
    incoming = store.receive()
    incoming.write(content)
    incoming.finish()
    return incoming.content_id


def place(s3: S3Server, store: FileStore, content_id: str) -> str:
    """Return a URL of content, signed with full permissions."""
    return f"{s3.url}/{store.uri(content_id).partition('@')[2]}"


def key_of(url: str) -> str:
    return urlsplit(url).path.removeprefix(f"/{BUCKET}/")


def lines(job: SignedJob) -> list[str]:
    """Return the lines that the server wrote to the action's log."""
    return [line.message for line in job.view().logs if line.stream == "server"]


def signature(s3: S3Server, method: str, url: str) -> str:
    """Return the correct signature of a request with no header but Host.

    After https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
    """
    parts = urlsplit(url)
    signed = sorted(item for item in parts.query.split("&") if not item.startswith("X-Amz-Signature="))
    request = (method, parts.path, "&".join(signed), f"host:{parts.netloc}\n", "host", "UNSIGNED-PAYLOAD")
    (moment,) = parse_qs(parts.query)["X-Amz-Date"]
    scope = (moment[:8], REGION, "s3", "aws4_request")
    digest = hashlib.sha256("\n".join(request).encode()).hexdigest()
    text = "\n".join(("AWS4-HMAC-SHA256", moment, "/".join(scope), digest))
    steps = (*scope, text)
    return reduce(_hmac, steps, f"AWS4{s3.secret_key}".encode()).hex()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


@pytest.mark.parametrize("size", [0, 1, SIZE, PART + 7])
def test_a_content_goes_to_s3_and_comes_from_it(job: SignedJob, s3: S3Server, size: int) -> None:
    content = secrets.token_bytes(size)
    send(job, s3, "model", content, name="model.bin", mimetype="application/x-model", metadata={"a": [1]})
    answer = complete(job, "model")
    assert (answer.status, answer.fields["done"]) == (200, True)
    known = announcement(content)
    expected = {"name": "model.bin", "size": size, "mimetype": "application/x-model", "metadata": {"a": [1]}}
    assert answer.fields["Map"].items() >= {**expected, "hash": known["hash"], "index": 0}.items()
    assert answer.fields["Map"]["sha256"] == known["sha256"]
    assert had(job, s3, "model") == content
    assert complete(job, "model").fields == answer.fields


def test_urls_are_signed_for_nothing_but_the_host_and_for_as_long_as_configured(
    job: SignedJob, s3: S3Server, url: str
) -> None:
    prefix = urlsplit(url).path
    put = leave(job, s3, "model", secrets.token_bytes(SIZE))
    get = locate(job, "model").fields["Location"]
    for method, signed in (("PUT", put), ("GET", get)):
        query = parse_qs(urlsplit(signed).query)
        assert query["X-Amz-SignedHeaders"] == ["host"]
        assert query["X-Amz-Expires"] == [f"{VALID_FOR.total_seconds():.0f}"]
        assert query["X-Amz-Signature"] == [signature(s3, method, signed)]
        assert s3.secret_key not in signed
    assert put.startswith(f"{s3.url}/{BUCKET}{prefix}/incoming/")
    assert get.startswith(f"{s3.url}/{BUCKET}{prefix}/contents/")


def test_a_part_of_a_content_can_be_had(job: SignedJob, s3: S3Server) -> None:
    content = secrets.token_bytes(SIZE)
    leave(job, s3, "model", content)
    url = locate(job, "model").fields["Location"]
    answer = to_s3(s3, "GET", url, headers={"Range": "bytes=10-19"})
    assert (answer.status, answer.body) == (206, content[10:20])


def test_a_download_is_redirected_to_s3(job: SignedJob, s3: S3Server, url: str) -> None:
    leave(job, s3, "model", secrets.token_bytes(SIZE))
    path = f"/download/default/{job.info.job_id}/model/0"
    answer = job.send("GET", path, query="redirect=true")
    assert answer.status == 302
    assert answer.headers["location"].startswith(f"{s3.url}/{BUCKET}{urlsplit(url).path}/contents/")


def test_the_server_moves_no_content(job: SignedJob, s3: S3Server) -> None:
    send(job, s3, "model", secrets.token_bytes(SIZE))
    before = len(s3.log_text())
    assert complete(job, "model").status == 200
    assert locate(job, "model").status == 200
    requests = re.findall(r'"([A-Z]+) /', s3.log_text()[before:])
    assert requests == ["PUT", "HEAD", "DELETE"]  # the copy, its digests, what was copied


def test_what_nobody_tells_of_is_attached_when_the_job_ends(job: SignedJob, s3: S3Server) -> None:
    url = send(job, s3, "model", secrets.token_bytes(SIZE))
    assert lines(job) == []
    assert job.report(status="SUCCESS").status == 200
    assert len(lines(job)) == 1
    assert key_of(url) not in keys(s3)
    assert [file["property"] for file in outputs(job)] == ["model"]


def test_what_nobody_tells_of_is_attached_when_the_task_looks(job: SignedJob, s3: S3Server, url: str) -> None:
    content = secrets.token_bytes(SIZE)
    send(job, s3, "model", content)
    (file,) = outputs(job)
    assert file["sha256"] == announcement(content)["sha256"]
    assert file["uri"].startswith(f"{url}/contents/")
    assert ObjectStoragePath(file["uri"]).read_bytes() == content


def test_what_nobody_tells_of_is_attached_when_it_is_wanted(job: SignedJob, s3: S3Server) -> None:
    content = secrets.token_bytes(SIZE)
    send(job, s3, "model", content)
    assert had(job, s3, "model") == content


def test_what_was_announced_and_never_sent_holds_nothing_up(job: SignedJob) -> None:
    assert announce(job, "model", secrets.token_bytes(SIZE)).status == 200
    assert complete(job, "model").error == (409, "content_missing")
    assert locate(job, "model").error == (404, "no_such_file")
    assert job.report(status="SUCCESS").status == 200
    assert outputs(job) == []


@pytest.mark.parametrize(
    "changes",
    [{"hash": "0" * 32}, {"sha256": "0" * 64}, {"size": SIZE - 1}, {"hash": "0" * 32, "sha256": None}],
)
def test_a_content_that_differs_from_its_announcement_is_discarded(
    job: SignedJob, s3: S3Server, changes: dict[str, Any]
) -> None:
    before = keys(s3)
    send(job, s3, "model", secrets.token_bytes(SIZE), **changes)
    assert complete(job, "model").error == (412, "hash_mismatch")
    assert keys(s3) == before
    assert complete(job, "model").error == (404, "no_such_file")
    assert outputs(job) == []


def test_what_is_not_what_was_announced_is_not_kept_at_the_end_either(job: SignedJob, s3: S3Server) -> None:
    before = keys(s3)
    send(job, s3, "model", secrets.token_bytes(SIZE), hash="0" * 32)
    assert job.report(status="SUCCESS").status == 200
    assert keys(s3) == before
    assert outputs(job) == []


def test_an_attached_content_cannot_be_changed_by_its_url(job: SignedJob, s3: S3Server) -> None:
    content = secrets.token_bytes(SIZE)
    url = leave(job, s3, "model", content)
    assert to_s3(s3, "PUT", url, b"another").status == 200
    assert complete(job, "model").status == 200
    assert had(job, s3, "model") == content
    (file,) = outputs(job)
    assert file["sha256"] == announcement(content)["sha256"]


def test_a_stored_content_is_not_uploaded_again_if_its_sha256_is_announced(
    new_job: NewJob, s3: S3Server
) -> None:
    content = secrets.token_bytes(SIZE)
    leave(new_job(), s3, "model", content)
    before = keys(s3)
    other = new_job()
    assert announce(other, "copy", content).fields == {"done": True, "index": 0}
    assert had(other, s3, "copy") == content
    assert keys(s3) == before


def test_an_unverified_challenge_links_nothing(new_job: NewJob, s3: S3Server) -> None:
    content = secrets.token_bytes(SIZE)
    leave(new_job(), s3, "model", content)
    before = keys(s3)
    other = new_job()
    leave(other, s3, "copy", content, sha256=None)
    assert had(other, s3, "copy") == content
    assert keys(s3) == before  # it is one content again


def test_colliding_contents_are_not_confused(new_job: NewJob, s3: S3Server) -> None:
    good, evil = COLLIDING
    known = announcement(good)
    forged = {"challenge": known["challenge"], "sha256": None}
    forger, victim, friend, liar = new_job(), new_job(), new_job(), new_job()
    leave(forger, s3, "model", evil, **forged)
    leave(victim, s3, "model", good, sha256=None)
    assert announce(friend, "model", good).fields == {"done": True, "index": 0}
    assert had(forger, s3, "model") == evil
    assert had(victim, s3, "model") == had(friend, s3, "model") == good
    again = new_job()
    leave(again, s3, "model", evil, **forged)
    assert had(again, s3, "model") == evil
    send(liar, s3, "model", evil, hash=known["hash"], challenge=known["challenge"], sha256="1" * 64)
    assert complete(liar, "model").error == (412, "hash_mismatch")


def test_another_jobs_file_cannot_be_completed(new_job: NewJob, s3: S3Server) -> None:
    job, other = new_job(), new_job()
    send(job, s3, "model", secrets.token_bytes(SIZE))
    answer = other.send("POST", f"/upload/default/{job.info.job_id}/model/0/complete")
    assert answer.error == (403, "not_yours")


def test_a_content_encoding_is_not_handed_on(job: SignedJob, s3: S3Server) -> None:
    content = gzip.compress(b"x" * SIZE)
    url = announce(job, "model", content).fields["url"]
    headers = {"Content-Encoding": "gzip", "Content-Type": "text/html"}
    assert to_s3(s3, "PUT", url, content, headers).status == 200
    assert complete(job, "model").status == 200
    answer = to_s3(s3, "GET", locate(job, "model").fields["Location"])
    assert answer.body == content
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-type"] != "text/html"


def test_what_was_uploaded_in_parts_is_digested_by_reading(job: SignedJob, s3: S3Server) -> None:
    content = secrets.token_bytes(2 * PART + 7)
    url = announce(job, "model", content).fields["url"]
    path = ObjectStoragePath(f"s3://aws_test@{BUCKET}/{key_of(url)}")
    with path.fs.open(path.path, "wb", block_size=PART) as file:
        file.write(content)
    assert re.search(r"-\d+", path.fs.info(path.path)["ETag"])
    answer = complete(job, "model")
    assert answer.status == 200, answer
    assert answer.fields["Map"]["sha256"] == announcement(content)["sha256"]
    assert had(job, s3, "model") == content


def test_what_nobody_refers_to_is_found_and_can_be_removed(
    job: SignedJob, s3: S3Server, store: FileStore, url: str
) -> None:
    sent_to = send(job, s3, "model", secrets.token_bytes(SIZE))
    orphan = keep(store, b"nobody's")
    prefix = url.partition(f"{BUCKET}/")[2]
    stored = {found.key.removeprefix(f"{BUCKET}/"): found for found in store.list_stored()}
    assert stored.keys() == keys(s3, prefix)
    unfinished = stored[key_of(sent_to)]
    assert (unfinished.is_unfinished, unfinished.content_id) == (True, None)
    (content,) = (found for found in stored.values() if found.content_id == orphan)
    assert not content.is_unfinished
    assert abs(datetime.now(UTC) - content.modified_at) < timedelta(minutes=1)
    before = keys(s3)
    for found in (unfinished, content):
        store.remove(found.key)
        store.remove(found.key)
    assert before - keys(s3) == {key for key, found in stored.items() if found in (unfinished, content)}


def test_what_comes_after_a_listing_is_found(job: SignedJob, s3: S3Server, store: FileStore) -> None:
    send(job, s3, "first", secrets.token_bytes(SIZE))
    known = keep(store, b"known")
    count = len(list(store.list_stored()))
    send(job, s3, "second", secrets.token_bytes(SIZE))
    assert complete(job, "second").status == 200
    new = str(UUID(int=UUID(known).int ^ 1 << 64))  # in the same folder
    assert to_s3(s3, "PUT", place(s3, store, new), b"another server's").status == 200
    with store.open(new) as opened:
        assert opened.read() == b"another server's"
    assert len(list(store.list_stored())) == count + 2


@pytest.mark.parametrize("size", [0, 10, 2 * PART])
def test_a_discarded_object_leaves_nothing(s3: S3Server, store: FileStore, size: int) -> None:
    before = keys(s3)
    for is_finished in (False, True):
        incoming = store.receive()
        incoming.write(secrets.token_bytes(size))
        if is_finished:
            incoming.finish()
        logged = len(s3.log_text())
        incoming.discard()
        incoming.discard()
        assert '"PUT /' not in s3.log_text()[logged:]
        assert keys(s3) == before
    with HookClient(s3.url) as client:
        assert b"<Upload>" not in client.send("GET", f"/{BUCKET}?uploads").body


def test_a_missing_connection_is_reported(job: SignedJob, caplog: pytest.LogCaptureFixture) -> None:
    with served_with(job, f"s3://aws_nowhere@{BUCKET}/prefix") as elsewhere:
        answer = announce(elsewhere, "model", secrets.token_bytes(SIZE))
    assert answer.error == (503, "file_store_unavailable")
    assert "lake" in answer.fields["message"]
    assert int(answer.headers["retry-after"]) > 0
    assert "The Airflow connection 'aws_nowhere' of the file store does not exist" in caplog.text


def test_nothing_is_sent_without_credentials(
    job: SignedJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AIRFLOW_CONN_AWS_NOBODY", '{"conn_type": "aws"}')
    with served_with(job, f"s3://aws_nobody@{BUCKET}/prefix") as elsewhere:
        answer = announce(elsewhere, "model", secrets.token_bytes(SIZE))
    assert answer.error == (503, "file_store_unavailable")
    assert "has no credentials" in caplog.text


def test_a_missing_bucket_is_reported(job: SignedJob, s3: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    with served_with(job, "s3://aws_test@nowhere/prefix") as elsewhere:
        url = announce(elsewhere, "model", secrets.token_bytes(SIZE)).fields["url"]
        assert to_s3(s3, "PUT", url, b"x").status == 404
        answer = complete(elsewhere, "model")
        assert locate(elsewhere, "model").error == (404, "no_such_file")
    assert answer.error == (503, "file_store_unavailable")
    assert "The bucket does not exist" in caplog.text
    _assert_no_secret(s3, answer, caplog)


def test_an_unreachable_server_is_reported(
    job: SignedJob, s3: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    away = s3.connection_to(f"http://127.0.0.1:{port}", retries={"total_max_attempts": 1})
    monkeypatch.setenv(f"AIRFLOW_CONN_AWS_AWAY_{port}", away)
    with served_with(job, f"s3://aws_away_{port}@{BUCKET}/prefix") as elsewhere:
        assert announce(elsewhere, "model", secrets.token_bytes(SIZE)).status == 200
        answer = complete(elsewhere, "model")
        assert answer.error == (503, "file_store_unavailable")
        assert elsewhere.report(status="SUCCESS").status == 200
        assert outputs(elsewhere) == []
    _assert_no_secret(s3, answer, caplog)


def _assert_no_secret(s3: S3Server, answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    told = answer.body.decode() + caplog.text
    assert s3.secret_key not in told
    assert "X-Amz-Signature" not in told
    assert s3.url not in answer.body.decode()
