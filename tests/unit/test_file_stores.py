# SPDX-License-Identifier: Apache-2.0
"""File stores: configuration, and contents of a local folder that others may write to."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from uuid6 import uuid7

from airflow_asyncaction import settings
from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.files.stores.base import FileStore, get_shard, parse_content_id
from airflow_asyncaction.files.stores.configured import FileStores, open_store
from airflow_asyncaction.files.stores.local import LocalFileStore
from airflow_asyncaction.files.stores.object_storage import GoogleFileStore, ObjectFileStore
from airflow_asyncaction.files.stores.s3 import S3FileStore

Configure = Callable[[str], None]

VARIABLE = "AIRFLOW__ASYNCACTION__FILE_STORES"
_WRITE = """
import sys
from pathlib import Path
from airflow_asyncaction.files.stores.local import LocalFileStore
sys.stdin.read()
for _ in range(50):
    incoming = LocalFileStore("local", Path(sys.argv[1])).receive()
    incoming.write(b"content")
    incoming.finish()
    print(incoming.content_id)
"""


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Return what sets ``[asyncaction] file_stores``; it is not set before."""
    monkeypatch.delenv(VARIABLE, raising=False)
    settings.load.cache_clear()
    yield lambda value: monkeypatch.setenv(VARIABLE, value)
    settings.load.cache_clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "some" / "store"


@pytest.fixture
def store(root: Path) -> LocalFileStore:
    return LocalFileStore("local", root)


def keep(store: FileStore, content: bytes = b"content") -> str:
    """Write a content; return its id."""
    incoming = store.receive()
    incoming.write(content)
    incoming.finish()
    return incoming.content_id


def place(root: Path, content_id: str) -> Path:
    return root / "contents" / get_shard(content_id) / content_id


def files_in(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if not path.is_dir()}


# As they are configured


@pytest.mark.usefixtures("configure")
def test_without_configuration_there_is_one_folder_in_the_home_of_airflow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("airflow.configuration.AIRFLOW_HOME", str(tmp_path / "my home"))
    assert settings.load().file_stores == {"default": f"file://{tmp_path}/my%20home/asyncaction"}
    (store,) = FileStores(settings.load().file_stores)
    content_id = keep(store)
    assert place(tmp_path / "my home" / "asyncaction", content_id).read_bytes() == b"content"


def test_stores_are_known_by_their_names_in_their_order(configure: Configure) -> None:
    configure('{"lake": "s3://aws@bucket/prefix", "local": "file:///folder"}')
    stores = FileStores(settings.load().file_stores)
    assert [store.name for store in stores] == ["lake", "local"]
    assert stores.get("local").name == "local"
    assert stores.get("default") is stores.get("lake")


def test_a_store_of_that_name_is_the_default(configure: Configure) -> None:
    configure('{"lake": "s3://aws@bucket/prefix", "default": "file:///folder"}')
    assert FileStores(settings.load().file_stores).get("default").name == "default"


@pytest.mark.parametrize("name", ["other", "", "LAKE", "../lake", "lake\n"])
def test_a_store_that_is_not_configured_is_refused_and_those_that_are_named(name: str) -> None:
    stores = FileStores({"lake": "s3://bucket", "local": "file:///folder"})
    with pytest.raises(FileRefused, match="lake, local") as refused:
        stores.get(name)
    assert refused.value.code == "no_such_store"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("s3://bucket", "JSON object of names and URLs: "),
        ("{", "JSON object of names and URLs: "),
        ("[]", "JSON object of names and URLs"),
        ("{}", "JSON object of names and URLs"),
        ("null", "JSON object of names and URLs"),
        ('"file:///folder"', "JSON object of names and URLs"),
        ('{"lake": 1}', "of lake is not a URL"),
        ('{"lake": null}', "of lake is not a URL"),
        ('{"lake": ""}', "of lake is not a URL"),
        ('{"lake": "/folder"}', "of lake is not a URL"),
        ('{"lake": "folder"}', "of lake is not a URL"),
        ('{"lake": "s3://"}', "of lake is not a URL"),
        ('{"lake": "file://folder/x"}', "of lake must be absolute"),
        ('{"lake": "file:/folder"}', "of lake is not a URL"),
        ('{"a/b": "file:///folder"}', "'a/b' is not a valid name"),
        ('{"": "file:///folder"}', "'' is not a valid name"),
        ('{"lake\\n": "file:///folder"}', "is not a valid name"),
        (json.dumps({"x" * 51: "file:///folder"}), "is not a valid name"),
    ],
)
def test_what_makes_no_sense_is_refused(configure: Configure, value: str, said: str) -> None:
    configure(value)
    with pytest.raises(ValueError, match=r"\[asyncaction\] file_stores must be .*") as refused:
        settings.load()
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("file:///folder", LocalFileStore),
        ("s3://connection@bucket/prefix", S3FileStore),
        ("s3a://bucket", S3FileStore),
        ("gs://connection@bucket/prefix/", GoogleFileStore),
        ("gcs://bucket", GoogleFileStore),
        ("abfs://connection@container/prefix", ObjectFileStore),
    ],
)
def test_the_url_says_what_kind_a_store_is_and_nothing_is_looked_at_yet(url: str, kind: type) -> None:
    store = open_store("some", url)
    assert type(store) is kind
    content_id = str(uuid7())
    uri = store.uri(content_id)
    assert uri == f"{url.rstrip('/')}/contents/{get_shard(content_id)}/{content_id}"


# In a local folder


@pytest.mark.parametrize("size", [0, 1, 3 * 1024 * 1024 + 7])
def test_what_was_written_can_be_read(store: LocalFileStore, root: Path, size: int) -> None:
    content = secrets.token_bytes(size)
    content_id = keep(store, content)
    with store.open(content_id) as opened:
        assert opened.read() == content
        opened.seek(size // 2)
        assert opened.read() == content[size // 2 :]
    assert store.uri(content_id) == place(root, content_id).as_uri()
    assert files_in(root) == {place(root, content_id)}


def test_a_content_is_not_there_before_it_is_whole(store: LocalFileStore, root: Path) -> None:
    incoming = store.receive()
    incoming.write(b"content")
    with pytest.raises(FileNotFoundError):
        store.open(incoming.content_id)
    assert files_in(root) == {root / "incoming" / incoming.content_id}
    incoming.finish()
    assert files_in(root) == {place(root, incoming.content_id)}


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_discard_leaves_nothing(store: LocalFileStore, root: Path, is_finished: bool) -> None:
    incoming = store.receive()
    incoming.write(b"content")
    assert len(open_files_in(root)) == 1
    if is_finished:
        incoming.finish()
    incoming.discard()
    incoming.discard()
    assert files_in(root) == set()
    assert open_files_in(root) == []


def open_files_in(root: Path) -> list[str]:
    """Return the files in a folder that this process has open, those included that were removed."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # another thread has closed it
            found.append(str(descriptor.readlink()))
    return [name for name in found if name.startswith(str(root))]


def test_a_discard_never_raises(store: LocalFileStore, root: Path) -> None:
    incoming = store.receive()
    (root / "incoming" / incoming.content_id).unlink()
    (root / "incoming").rmdir()
    (root / "incoming").write_text("a file in its place")
    incoming.discard()


def test_contents_are_for_the_owner_and_the_group_alone(store: LocalFileStore, root: Path) -> None:
    before = os.umask(0)
    try:
        content_id = keep(store)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}
    assert modes.pop(place(root, content_id)) == 0o640
    assert set(modes.values()) == {0o750}


def test_what_is_stored_is_found_and_can_be_removed(store: LocalFileStore, root: Path) -> None:
    assert list(store.list_stored()) == []
    before = datetime.now(UTC) - timedelta(seconds=1)
    content_id, incoming = keep(store), store.receive()
    (root / "contents" / "README").write_text("not ours")
    (root / "contents" / get_shard(content_id) / "README").write_text("not ours")
    found = {stored.key: stored for stored in store.list_stored()}
    assert {key: (stored.is_unfinished, stored.content_id) for key, stored in found.items()} == {
        f"incoming/{incoming.content_id}": (True, None),
        f"contents/{get_shard(content_id)}/{content_id}": (False, content_id),
        f"contents/{get_shard(content_id)}/README": (False, None),
    }
    for stored in found.values():
        assert before <= stored.modified_at <= datetime.now(UTC) + timedelta(seconds=1)
        store.remove(stored.key)
        store.remove(stored.key)
    assert files_in(root) == {root / "contents" / "README"}
    incoming.discard()


def test_a_content_can_be_removed_more_than_once(store: LocalFileStore, root: Path) -> None:
    content_id, other_id = keep(store), keep(store)
    for _ in range(2):
        store.remove_content(content_id)
    assert files_in(root) == {place(root, other_id)}
    store.remove_content(str(uuid7()))


def test_nothing_is_signed_or_taken_but_through_the_server(store: FileStore) -> None:
    assert store.signed_put(str(uuid7()), timedelta(hours=1)) is None
    assert store.signed_get(keep(store), timedelta(hours=1)) is None
    store.withdraw(str(uuid7()))
    with pytest.raises(FileNotFoundError):
        store.accept(str(uuid7()), str(uuid7()), md5=hashlib.md5(b"", usedforsecurity=False).hexdigest())


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    content_id = keep(LocalFileStore("local", tmp_path / "link"))
    assert place(tmp_path / "disk", content_id).read_bytes() == b"content"


@pytest.mark.parametrize("name", ["incoming", "contents"])
def test_a_link_in_place_of_a_folder_is_not_written_through(
    store: LocalFileStore, root: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    root.mkdir(parents=True)
    (root / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotADirectoryError):
        keep(store)
    assert files_in(tmp_path / "elsewhere") == set()
    assert all(stored.is_unfinished for stored in store.list_stored())


def test_a_link_in_place_of_a_contents_folder_is_not_read_through(
    store: LocalFileStore, root: Path, tmp_path: Path
) -> None:
    content_id = keep(store)
    place(root, content_id).parent.rename(tmp_path / "elsewhere")
    place(root, content_id).parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotADirectoryError):
        store.open(content_id)
    assert list(store.list_stored()) == []
    with pytest.raises(NotADirectoryError):
        store.remove_content(content_id)
    assert (tmp_path / "elsewhere" / content_id).exists()


def test_a_link_in_place_of_a_content_is_not_read_through(
    store: LocalFileStore, root: Path, tmp_path: Path
) -> None:
    content_id = keep(store)
    (tmp_path / "secret").write_text("secret")
    place(root, content_id).unlink()
    place(root, content_id).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic link"):
        store.open(content_id)
    store.remove_content(content_id)
    assert (tmp_path / "secret").read_text() == "secret"
    assert files_in(root) == set()


def test_a_folder_in_place_of_a_content_is_no_content(store: LocalFileStore, root: Path) -> None:
    content_id = keep(store)
    place(root, content_id).unlink()
    place(root, content_id).mkdir()
    with pytest.raises(FileNotFoundError, match="not a regular file"):
        store.open(content_id)


def test_processes_may_make_the_folder_at_the_same_time(root: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITE, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
        writer.stdin = None
    printed = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    ids = "".join(printed).split()
    assert files_in(root) == {place(root, content_id) for content_id in ids}
    assert len(set(ids)) == 100


@pytest.mark.parametrize("name", ["", "x", "..", "01A20D8A-D942-7AC0-BB64-D53EF5907CF4", "0" * 32])
def test_what_is_no_id_is_not_taken_for_one(name: str) -> None:
    assert parse_content_id(name) is None
    assert parse_content_id(str(uuid7())) is not None
