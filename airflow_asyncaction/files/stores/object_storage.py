# SPDX-License-Identifier: Apache-2.0
"""Object stores supported by fsspec, with the credentials of an Airflow connection.

The file system that Airflow creates from the connection signs URLs (fsspec's ``sign``), so that credentials,
endpoints and roles are configured in a single place.
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

from airflow_asyncaction.files.stores.base import CHUNK_BYTES, StoredObject, get_shard, parse_content_id
from airflow_asyncaction.protocol.digests import Digests, digests

_CONTENTS = "contents"
_INCOMING = "incoming"
_MODIFIED = ("LastModified", "mtime", "last_modified")  # S3, Google and local files, Azure


class ObjectFileStore:
    """Stores contents as objects with a common prefix.

    Uploads to signed URLs have the prefix ``incoming/``. The store itself copies them to ``contents/``, where
    the URL cannot change them, before they are verified.

    :param url: URL for ObjectStoragePath, such as ``gs://connection@bucket/prefix``
    """

    put_options: ClassVar[dict[str, Any] | None] = None
    """Options of ``sign`` for PUT; ``None`` if it cannot sign a PUT without headers."""

    get_options: ClassVar[dict[str, Any]] = {}
    """Options of ``sign`` for GET."""

    cannot_sign: ClassVar[tuple[type[Exception], ...]] = (NotImplementedError, AttributeError, ValueError)
    """Exceptions that ``sign`` raises without a signing key. Access tokens (Google, Azure) cannot sign."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.is_direct = self.put_options is not None
        self._url = url.rstrip("/")

    @cached_property
    def _base(self) -> ObjectStoragePath:
        """Path of the prefix. Without the connection, Airflow would use the machine's credentials or none."""
        connection, at, _ = urlsplit(self._url).netloc.rpartition("@")
        if at:
            with convert_errors():
                _check_connection(connection)
        return ObjectStoragePath(self._url)

    @cached_property
    def _fs(self) -> Any:
        """File system, untyped like fsspec."""
        with convert_errors():
            fs = self._base.fs
            fs.dircache.use_listings_cache = False  # other processes write too, so listings become stale
            fs.invalidate_cache()
            return fs

    @cached_property
    def _signer(self) -> Any:
        """File system that signs URLs."""
        return self._fs

    def check(self) -> None:
        """Do nothing: an outage of an object store is one for all API servers and gateways."""

    def uri(self, content_id: str) -> str:
        """Return the URL of the object, including the connection."""
        return f"{self._url}/{_CONTENTS}/{get_shard(content_id)}/{content_id}"

    def receive(self) -> ObjectIncoming:
        """Start to write an object."""
        content_id = str(uuid7())
        with convert_errors():
            return ObjectIncoming(content_id, self._fs, self._content(content_id))

    def open(self, content_id: str) -> BinaryIO:
        """Open an object for reading."""
        with convert_errors():
            opened = self._fs.open(self._content(content_id), "rb", block_size=CHUNK_BYTES)
        return cast("BinaryIO", opened)

    def signed_put(self, upload_id: str, valid_for: timedelta) -> str | None:
        """Return a signed URL, if the store can sign URLs for PUT."""
        if self.put_options is None:
            return None
        return self._sign(self._incoming(upload_id), valid_for, self.put_options)

    def signed_get(self, content_id: str, valid_for: timedelta) -> str | None:
        """Return a signed URL, if the store can sign URLs."""
        return self._sign(self._content(content_id), valid_for, self.get_options)

    def accept(self, upload_id: str, content_id: str, *, md5: str) -> Digests:
        """Copy the object, and read it to compute its digests: not every store has reliable checksums."""
        with convert_errors():
            self._fs.cp_file(self._incoming(upload_id), self._content(content_id))
        return self._read(content_id)

    def withdraw(self, upload_id: str) -> None:
        """Delete the object, if it exists."""
        self.remove(self._incoming(upload_id))

    def remove_content(self, content_id: str) -> None:
        """Delete the object, if it exists."""
        self.remove(self._content(content_id))

    def list_stored(self) -> Iterator[StoredObject]:
        """Yield all objects below ``incoming/`` and ``contents/``."""
        for kind in (_INCOMING, _CONTENTS):
            with convert_errors():
                found = self._fs.find(f"{self._base.path}/{kind}", detail=True)
            for key, info in found.items():
                yield StoredObject(
                    key,
                    self._modified_at(key, info),
                    is_unfinished=kind == _INCOMING,
                    content_id=parse_content_id(key.rpartition("/")[2]) if kind == _CONTENTS else None,
                )

    def remove(self, key: str) -> None:
        """Delete an object, if it exists."""
        with suppress(FileNotFoundError), convert_errors():
            self._fs.rm_file(key)

    def _read(self, content_id: str) -> Digests:
        with self.open(content_id) as content, convert_errors():
            return digests(iter(lambda: content.read(CHUNK_BYTES), b""))

    def _sign(self, path: str, valid_for: timedelta, options: dict[str, Any]) -> str | None:
        with convert_errors():
            try:
                url = self._signer.sign(path, expiration=int(valid_for.total_seconds()), **options)
            except self.cannot_sign:
                return None
        return str(url)

    def _content(self, content_id: str) -> str:
        return f"{self._base.path}/{_CONTENTS}/{get_shard(content_id)}/{content_id}"

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
    """Google Cloud Storage. It signs URLs with the key of a service account."""

    put_options: ClassVar[dict[str, Any] | None] = {"method": "PUT", "version": "v4"}
    get_options: ClassVar[dict[str, Any]] = {"version": "v4"}


class ObjectIncoming:
    """Object that is uploaded in parts, and becomes available when it is finished."""

    def __init__(self, content_id: str, fs: Any, path: str) -> None:
        self.content_id = content_id
        self._fs = fs
        self._path = path
        self._file = fs.open(path, "wb")

    def write(self, chunk: bytes) -> None:
        """Write a chunk."""
        with convert_errors():
            self._file.write(chunk)

    def finish(self) -> None:
        """Upload the last part."""
        with convert_errors():
            self._file.close()

    def discard(self) -> None:
        """Discard the parts, and delete the object, which some file systems write in place."""
        for step in (self._file.discard, self._mark_closed, self._file.close, self._remove):
            with suppress(Exception):
                step()

    def _mark_closed(self) -> None:
        """Prevent the discarded object from being written on close or garbage collection."""
        self._file.closed = True

    def _remove(self) -> None:
        self._fs.rm_file(self._path)


def _check_connection(name: str) -> None:
    try:
        BaseHook.get_connection(name)
    except AirflowNotFoundException:
        raise OSError(f"The Airflow connection {name!r} of the file store does not exist") from None


@contextmanager
def convert_errors() -> Iterator[None]:
    """Convert exceptions of client libraries to ``OSError``. Their messages may contain credentials."""
    try:
        yield
    except (OSError, NotImplementedError):
        raise
    except Exception as error:
        raise OSError(f"The object store failed: {type(error).__name__}") from error
