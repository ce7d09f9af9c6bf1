# SPDX-License-Identifier: Apache-2.0
"""What every file store does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, Protocol
from uuid import UUID

CHUNK_BYTES = 1024 * 1024
"""How much is read or written at once."""


@dataclass(frozen=True)
class Measured:
    """What a file store found a content to be.

    :param challenge: ``None`` if nobody has read the content: a store's own checksums are md5 and sha256
    """

    md5: str
    sha256: str
    size_bytes: int
    challenge: str | None


@dataclass(frozen=True)
class Stored:
    """Something that lies in a file store.

    :param key: for :meth:`FileStore.remove`
    :param is_unfinished: whether it is an upload, not a content
    :param content_id: ``None``: it is nothing of ours
    """

    key: str
    modified_at: datetime
    is_unfinished: bool = False
    content_id: str | None = None


class Incoming(Protocol):
    """A content that is on its way into a store. It is found under its id once it is finished."""

    content_id: str

    def write(self, chunk: bytes) -> None:
        """Take the next piece.

        :raises OSError: the store does not take it
        """

    def finish(self) -> None:
        """Make it durable, and a content."""

    def discard(self) -> None:
        """Leave nothing behind. Never raises."""


class FileStore(Protocol):
    """Keeps contents under ids. It knows nothing of actions, files, or who may have what.

    A content is written once, under a new id, and never changes. All methods may block, and raise ``OSError``
    (``FileNotFoundError``: there is nothing) if the store does not answer as it should.
    """

    name: str

    is_direct: bool
    """Whether it may sign for PUT: then a content may have come that nobody has told of."""

    def uri(self, content_id: str) -> str:
        """Return where a content is, for people and for Airflow's ObjectStoragePath."""

    def receive(self) -> Incoming:
        """Begin to take a content in."""

    def open(self, content_id: str) -> BinaryIO:
        """Open a content to be read; it can be sought in."""

    def signed_put(self, upload_id: str, valid_for: timedelta) -> str | None:
        """Return a URL to PUT a content to, without any header; ``None``: this store cannot."""

    def accept(self, upload_id: str, content_id: str, *, md5: str) -> Measured:
        """Make what was put to a signed URL a content that this URL cannot change any more, and measure it.

        :param md5: what it is said to be: a store may have a quick way to see whether that is true
        """

    def withdraw(self, upload_id: str) -> None:
        """Remove what was put to a signed URL, if there is anything."""

    def signed_get(self, content_id: str, valid_for: timedelta) -> str | None:
        """Return a URL to GET a content from, without any header; ``None``: this store cannot."""

    def remove_content(self, content_id: str) -> None:
        """Remove a content, if it is there."""

    def stored(self) -> Iterator[Stored]:
        """Yield all that lies in the store."""

    def remove(self, key: str) -> None:
        """Remove what :meth:`stored` found, if it is still there."""


def shard(content_id: str) -> str:
    """Return the folder of a content. Its id ends in random digits, and begins with the time."""
    return content_id[-2:]


def as_content_id(name: str) -> str | None:
    """Return the id that a name is, if it is one."""
    try:
        return name if str(UUID(name)) == name else None
    except ValueError:
        return None
