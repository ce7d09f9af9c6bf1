# SPDX-License-Identifier: Apache-2.0
"""An object store that fsspec knows, with the credentials of an Airflow connection.

Signing is fsspec's own (``sign``): it comes with the very file system that Airflow makes of a connection, so
there is one way to configure credentials, endpoints and roles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, BinaryIO, ClassVar, cast
from urllib.parse import urlsplit

from airflow.sdk import BaseHook, ObjectStoragePath
from airflow.sdk.exceptions import AirflowNotFoundException
from uuid6 import uuid7

from airflow_asyncaction.files.stores.base import CHUNK_BYTES, Measured, Stored, as_content_id, shard
from airflow_asyncaction.protocol.digests import digests

_CONTENTS = "contents"
_INCOMING = "incoming"
_MODIFIED = ("LastModified", "mtime", "last_modified")  # of S3, Google and files, Azure


class ObjectFileStore:
    """Contents as objects below a prefix.

    What is put to a signed URL lies below ``incoming/``, and is copied, by the store itself, below
    ``contents/``, where the URL does not reach: only then it is verified.

    :param url: as ObjectStoragePath takes it: ``gs://connection@bucket/prefix``
    """

    put_options: ClassVar[dict[str, Any] | None] = None
    """What makes ``sign`` sign for PUT; ``None``: it cannot, or a PUT would need a header."""

    get_options: ClassVar[dict[str, Any]] = {}
    """What makes ``sign`` sign for GET."""

    cannot_sign: ClassVar[tuple[type[Exception], ...]] = (NotImplementedError, AttributeError, ValueError)
    """What ``sign`` raises if there is nothing to sign with: tokens of Google's and Azure's are no keys."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.is_direct = self.put_options is not None
        self._url = url.rstrip("/")

    @cached_property
    def _base(self) -> ObjectStoragePath:
        """The prefix. Without its connection, Airflow would use what the machine has, or nobody's name."""
        connection, at, _ = urlsplit(self._url).netloc.rpartition("@")
        if at:
            with as_os_error():
                _check_connection(connection)
        return ObjectStoragePath(self._url)

    @cached_property
    def _fs(self) -> Any:
        """The file system, untyped as fsspec is."""
        with as_os_error():
            fs = self._base.fs
            fs.dircache.use_listings_cache = False  # others write, too: what was listed once is soon wrong
            fs.invalidate_cache()
            return fs

    @cached_property
    def _signer(self) -> Any:
        """The file system that signs."""
        return self._fs

    def uri(self, content_id: str) -> str:
        """Return the object's URL, connection included."""
        return f"{self._url}/{_CONTENTS}/{shard(content_id)}/{content_id}"

    def receive(self) -> ObjectIncoming:
        """Begin to write an object."""
        content_id = str(uuid7())
        with as_os_error():
            return ObjectIncoming(content_id, self._fs, self._content(content_id))

    def open(self, content_id: str) -> BinaryIO:
        """Open an object to be read."""
        with as_os_error():
            opened = self._fs.open(self._content(content_id), "rb", block_size=CHUNK_BYTES)
        return cast("BinaryIO", opened)

    def signed_put(self, upload_id: str, valid_for: timedelta) -> str | None:
        """Return a pre-signed URL, if the store can sign for PUT."""
        if self.put_options is None:
            return None
        return self._sign(self._incoming(upload_id), valid_for, self.put_options)

    def signed_get(self, content_id: str, valid_for: timedelta) -> str | None:
        """Return a pre-signed URL, if the store can sign."""
        return self._sign(self._content(content_id), valid_for, self.get_options)

    def accept(self, upload_id: str, content_id: str, *, md5: str) -> Measured:
        """Copy the object, and read it: not every store tells reliable digests."""
        with as_os_error():
            self._fs.cp_file(self._incoming(upload_id), self._content(content_id))
        return self._read(content_id)

    def withdraw(self, upload_id: str) -> None:
        """Remove the object, if it is there."""
        self.remove(self._incoming(upload_id))

    def remove_content(self, content_id: str) -> None:
        """Remove the object, if it is there."""
        self.remove(self._content(content_id))

    def stored(self) -> Iterator[Stored]:
        """Yield all objects below the prefix's two."""
        for kind in (_INCOMING, _CONTENTS):
            with as_os_error():
                found = self._fs.find(f"{self._base.path}/{kind}", detail=True)
            for key, info in found.items():
                yield Stored(
                    key,
                    self._modified_at(key, info),
                    is_unfinished=kind == _INCOMING,
                    content_id=as_content_id(key.rpartition("/")[2]) if kind == _CONTENTS else None,
                )

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError), as_os_error():
            self._fs.rm_file(key)

    def _read(self, content_id: str) -> Measured:
        with self.open(content_id) as content, as_os_error():
            found = digests(iter(lambda: content.read(CHUNK_BYTES), b""))
        return Measured(found.md5, found.sha256, found.size_bytes, found.challenge)

    def _sign(self, path: str, valid_for: timedelta, options: dict[str, Any]) -> str | None:
        with as_os_error():
            try:
                url = self._signer.sign(path, expiration=int(valid_for.total_seconds()), **options)
            except self.cannot_sign:
                return None
        return str(url)

    def _content(self, content_id: str) -> str:
        return f"{self._base.path}/{_CONTENTS}/{shard(content_id)}/{content_id}"

    def _incoming(self, upload_id: str) -> str:
        return f"{self._base.path}/{_INCOMING}/{upload_id}"

    def _modified_at(self, key: str, info: dict[str, Any]) -> datetime:
        known = next((info[name] for name in _MODIFIED if info.get(name)), None)
        modified = self._fs.modified(key) if known is None else known
        if isinstance(modified, int | float):
            return datetime.fromtimestamp(modified, UTC)
        if isinstance(modified, str):
            modified = datetime.fromisoformat(modified)
        return cast("datetime", modified).astimezone(UTC)


class GoogleFileStore(ObjectFileStore):
    """Google Cloud Storage: it signs for PUT with a service account's key."""

    put_options: ClassVar[dict[str, Any] | None] = {"method": "PUT", "version": "v4"}
    get_options: ClassVar[dict[str, Any]] = {"version": "v4"}


class ObjectIncoming:
    """An object that is written in parts, and is there when it is finished."""

    def __init__(self, content_id: str, fs: Any, path: str) -> None:
        self.content_id = content_id
        self._fs = fs
        self._path = path
        self._file = fs.open(path, "wb")

    def write(self, chunk: bytes) -> None:
        """Write a piece."""
        with as_os_error():
            self._file.write(chunk)

    def finish(self) -> None:
        """Write the last part."""
        with as_os_error():
            self._file.close()

    def discard(self) -> None:
        """Give the parts up, and remove the object: some file systems write it in its place."""
        for step in (self._file.discard, self._mark_closed, self._file.close, self._remove):
            with suppress(Exception):
                step()

    def _mark_closed(self) -> None:
        """Keep what was given up from being written when it is closed, or collected."""
        self._file.closed = True

    def _remove(self) -> None:
        self._fs.rm_file(self._path)


def _check_connection(name: str) -> None:
    try:
        BaseHook.get_connection(name)
    except AirflowNotFoundException:
        raise OSError(f"There is no connection {name}") from None


@contextmanager
def as_os_error() -> Iterator[None]:
    """Let whatever a client library raises be an ``OSError``: what it says may hold credentials."""
    try:
        yield
    except (OSError, NotImplementedError):
        raise
    except Exception as error:
        raise OSError(f"The object store does not answer as it should: {type(error).__name__}") from error
