# SPDX-License-Identifier: Apache-2.0
"""File store interface, with helpers for its implementations and callers."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, Protocol
from uuid import UUID

from airflow_asyncaction.exceptions import FileStoreUnavailable
from airflow_asyncaction.protocol.digests import Digests

log = logging.getLogger(__name__)

CHUNK_BYTES = 1024 * 1024
"""Size of chunks for reading and writing."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class StoredObject:
    """Object in a file store.

    :param key: key for :meth:`FileStore.remove`
    :param is_unfinished: whether it is an unfinished upload
    :param content_id: id of the content; ``None`` if this package did not create the object
    """

    key: str
    modified_at: datetime
    is_unfinished: bool = False
    content_id: str | None = None


class Incoming(Protocol):
    """Content that is being written to a store. It can be opened by its id once it is finished."""

    content_id: str

    def write(self, chunk: bytes) -> None:
        """Write the next chunk.

        :raises OSError: the store failed
        """

    def finish(self) -> None:
        """Make the content durable and available."""

    def discard(self) -> None:
        """Delete the content. Never raises."""


class FileStore(Protocol):
    """Stores contents by id. Knows nothing about actions, files or permissions.

    Content is written once, under a new id, and never changes. All methods may block, and raise ``OSError``
    if the store fails (``FileNotFoundError`` if the content does not exist).
    """

    name: str

    is_direct: bool
    """Whether the store can sign URLs for PUT. The server does not see such uploads arrive."""

    def check(self) -> None:
        """Check that this machine can use the store. Checks nothing that would fail on all machines alike.

        :raises OSError: it cannot
        """

    def uri(self, content_id: str) -> str:
        """Return the URI of content, for people and Airflow's ObjectStoragePath."""

    def receive(self) -> Incoming:
        """Start to write new content."""

    def open(self, content_id: str) -> BinaryIO:
        """Open content for reading. The file is seekable."""

    def signed_put(self, upload_id: str, valid_for: timedelta) -> str | None:
        """Return a URL for uploading by PUT without headers; ``None`` if the store cannot sign one."""

    def accept(self, upload_id: str, content_id: str, *, md5: str) -> Digests:
        """Move what was uploaded to a signed URL beyond the reach of that URL, and return its digests.

        :param md5: announced MD5, for stores that can verify it without reading the content
        """

    def withdraw(self, upload_id: str) -> None:
        """Delete an upload to a signed URL, if it exists."""

    def signed_get(self, content_id: str, valid_for: timedelta) -> str | None:
        """Return a URL for downloading by GET without headers; ``None`` if the store cannot sign one."""

    def remove_content(self, content_id: str) -> None:
        """Delete content, if it exists."""

    def list_stored(self) -> Iterator[StoredObject]:
        """Yield all objects in the store."""

    def remove(self, key: str) -> None:
        """Delete an object that :meth:`list_stored` returned, if it still exists."""


def get_shard(content_id: str) -> str:
    """Return the folder of content: the last two digits of its id, which are random."""
    return content_id[-2:]


def parse_content_id(name: str) -> str | None:
    """Return a name if it is a content id, otherwise ``None``."""
    try:
        return name if str(UUID(name)) == name else None
    except ValueError:
        return None


@contextmanager
def convert_store_errors(store: FileStore) -> Iterator[None]:
    """Convert an ``OSError`` of a file store.

    :raises FileStoreUnavailable: instead of the ``OSError``
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            log.error("File store %s is full", store.name)
            raise FileStoreUnavailable(f"File store {store.name} is full", is_full=True) from None
        log.exception("File store %s failed", store.name)
        raise FileStoreUnavailable(f"File store {store.name} failed. Retry later") from None
