# SPDX-License-Identifier: Apache-2.0
"""Object stores that cannot sign URLs: content passes through the API server in both directions."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest
from airflow.sdk.io import attach
from uuid6 import uuid7

from airflow_asyncaction import settings
from airflow_asyncaction.files.stores.configured import open_store
from airflow_asyncaction.files.stores.object_storage import ObjectFileStore
from airflow_asyncaction.services import open_services
from tests.integration.databases import Database
from tests.integration.file_servers import SERVERS, served_files
from tests.integration.file_transfers import announce, content_request, download, locate, put_content, upload
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import HookClient, SignedJob, registered

pytestmark = pytest.mark.integration

SIZE = 3 * 1024 * 1024 + 7


@pytest.fixture
def files() -> Iterator[Callable[[], set[str]]]:
    """Return a function that lists the objects of an in-memory store that only this test uses."""
    fs = fsspec.filesystem("memory")
    attach("memory", fs=fs)
    yield lambda: {path.removeprefix("/bucket/prefix/") for path in fs.store}
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def store(files: Callable[[], set[str]]) -> ObjectFileStore:  # noqa: ARG001
    opened = open_store("memory", "memory://bucket/prefix")
    assert isinstance(opened, ObjectFileStore)
    return opened


@pytest.fixture(params=SERVERS)
def job(
    database: Database,  # noqa: ARG001
    files: Callable[[], set[str]],  # noqa: ARG001
    new_task: Callable[..., RunningTask],
    request: pytest.FixtureRequest,
) -> Iterator[SignedJob]:
    """Return a job of a server with this store."""
    stores = {f"memory-{secrets.token_hex(4)}": "memory://bucket/prefix"}
    services = open_services(replace(settings.load(), file_stores=stores))
    with served_files(request.param, services) as hook, HookClient(hook) as client:
        yield registered(new_task(), client)


def keep(store: ObjectFileStore, content: bytes) -> str:
    """Store content, and return its id."""
    incoming = store.receive()
    for start in range(0, len(content), 1000):
        incoming.write(content[start : start + 1000])
    incoming.finish()
    return incoming.content_id


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_what_was_written_can_be_read(
    store: ObjectFileStore, files: Callable[[], set[str]], size: int
) -> None:
    content = secrets.token_bytes(size)
    content_id = keep(store, content)
    with store.open(content_id) as opened:
        assert opened.read() == content
        opened.seek(size // 2)
        assert opened.read() == content[size // 2 :]
    assert files() == {f"contents/{content_id[-2:]}/{content_id}"}
    assert store.uri(content_id) == f"memory://bucket/prefix/contents/{content_id[-2:]}/{content_id}"


def test_nothing_is_signed(store: ObjectFileStore) -> None:
    assert store.signed_put(str(uuid7()), timedelta(hours=1)) is None
    assert store.signed_get(str(uuid7()), timedelta(hours=1)) is None


def test_what_is_not_there_is_told(store: ObjectFileStore) -> None:
    with pytest.raises(FileNotFoundError):
        store.open(str(uuid7()))
    with pytest.raises(FileNotFoundError):
        store.accept(str(uuid7()), str(uuid7()), md5="0" * 32)
    store.remove_content(str(uuid7()))
    store.withdraw(str(uuid7()))
    assert list(store.list_stored()) == []


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_discard_leaves_nothing(
    store: ObjectFileStore, files: Callable[[], set[str]], is_finished: bool
) -> None:
    incoming = store.receive()
    incoming.write(b"x" * SIZE)
    if is_finished:
        incoming.finish()
    incoming.discard()
    incoming.discard()
    assert files() == set()


def test_what_is_stored_is_found_and_can_be_removed(
    store: ObjectFileStore, files: Callable[[], set[str]]
) -> None:
    before = datetime.now(UTC)
    content_id = keep(store, b"content")
    fsspec.filesystem("memory").pipe_file("/bucket/prefix/incoming/upload", b"upload")
    fsspec.filesystem("memory").pipe_file("/bucket/prefix/contents/README", b"not ours")
    found = {stored.key.removeprefix("/bucket/prefix/"): stored for stored in store.list_stored()}
    assert found.keys() == files()
    assert {key: (stored.is_unfinished, stored.content_id) for key, stored in found.items()} == {
        "incoming/upload": (True, None),
        "contents/README": (False, None),
        f"contents/{content_id[-2:]}/{content_id}": (False, content_id),
    }
    for stored in found.values():
        assert before <= stored.modified_at <= datetime.now(UTC)
        store.remove(stored.key)
        store.remove(stored.key)
    assert files() == set()


def test_a_file_system_that_writes_in_place_is_cleaned_up_as_well(tmp_path: Path) -> None:
    disk = fsspec.filesystem("local", auto_mkdir=True)
    attach("local", alias="local", fs=fsspec.filesystem("dir", path=str(tmp_path), fs=disk))
    store = open_store("disk", "local:///prefix")
    incoming = store.receive()
    incoming.write(b"x")
    incoming.discard()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nosuch://bucket/prefix", "The object store failed"),
        ("memory://nosuch@bucket/prefix", "The Airflow connection 'nosuch' of the file store does not exist"),
    ],
)
def test_what_cannot_be_used_is_an_os_error(url: str, said: str) -> None:
    store = open_store("none", url)
    for use in (store.receive, lambda: store.open(str(uuid7())), lambda: list(store.list_stored())):
        with pytest.raises(OSError, match=said):
            use()


@pytest.mark.parametrize("size", [0, 1, SIZE])
def test_contents_pass_through_the_server_both_ways(
    job: SignedJob, files: Callable[[], set[str]], size: int
) -> None:
    content = secrets.token_bytes(size)
    announced = announce(job, "model", content).fields
    assert (announced["done"], announced["complete"]) == (False, False)
    assert put_content(job, announced["url"], content).status == 200
    assert len(files()) == 1
    found = download(job, "model")
    assert found.content == content
    part = content_request(job.client, "GET", found.location, headers={"Range": "bytes=-1"})
    assert (part.status, part.body) == ((206, content[-1:]) if size else (416, b""))


def test_a_content_that_differs_from_its_announcement_is_discarded(
    job: SignedJob, files: Callable[[], set[str]]
) -> None:
    url = announce(job, "model", b"one").fields["url"]
    assert put_content(job, url, b"two").error == (412, "hash_mismatch")
    assert files() == set()


def test_an_upload_that_is_too_large_leaves_nothing(job: SignedJob, files: Callable[[], set[str]]) -> None:
    url = announce(job, "model", b"x" * SIZE).fields["url"]
    answer = put_content(job, url, iter(io.BytesIO(b"x" * (SIZE + 1)).readlines()))
    assert answer.error == (413, "too_large")
    assert files() == set()


def test_a_lost_content_is_reported(job: SignedJob) -> None:
    upload(job, "model", b"content")
    fsspec.filesystem("memory").store.clear()
    url = locate(job, "model").fields["Location"]
    assert content_request(job.client, "GET", url).error == (404, "content_lost")
