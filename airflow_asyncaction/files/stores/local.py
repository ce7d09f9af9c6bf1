# SPDX-License-Identifier: Apache-2.0
"""A folder of the API server's, or one that all API servers share.

``contents/<last two digits>/<id>`` are contents, ``incoming/<id>`` is what has not arrived as a whole. No
symbolic link below the folder is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from uuid6 import uuid7

from airflow_asyncaction.files.stores.base import Measured, Stored, as_content_id, shard

_CONTENTS = "contents"
_INCOMING = "incoming"
_FOLDER_MODE = 0o750
_FILE_MODE = 0o640
_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # what is there may be a pipe
_IS_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalFileStore:
    """Contents in a folder, which is made when it is first written to.

    All of them pass through the API server: there is nobody else who could sign for them.

    :param root: absolute; it may be, or lie behind, a symbolic link
    """

    is_direct = False

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root

    def uri(self, content_id: str) -> str:
        """Return a ``file://`` URL."""
        return (self._root / _CONTENTS / shard(content_id) / content_id).as_uri()

    def receive(self) -> LocalIncoming:
        """Begin to take a content in."""
        return LocalIncoming(self)

    def open(self, content_id: str) -> BinaryIO:
        """Open a content to be read."""
        with self.folder(_CONTENTS, shard(content_id)) as folder:
            fd = os.open(content_id, _TO_READ, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileNotFoundError(f"{content_id} is not a regular file")
        return os.fdopen(fd, "rb", buffering=0)

    def signed_put(self, upload_id: str, valid_for: timedelta) -> None:
        """Return ``None``: contents go through the API server."""

    def signed_get(self, content_id: str, valid_for: timedelta) -> None:
        """Return ``None``: contents come through the API server."""

    def accept(self, upload_id: str, content_id: str, *, md5: str) -> Measured:
        """Raise: nothing can be put here but through the API server."""
        raise FileNotFoundError(f"nothing was uploaded as {upload_id}")

    def withdraw(self, upload_id: str) -> None:
        """Do nothing, likewise."""

    def remove_content(self, content_id: str) -> None:
        """Remove a content, if it is there."""
        self.remove(f"{_CONTENTS}/{shard(content_id)}/{content_id}")

    def stored(self) -> Iterator[Stored]:
        """Yield all files below the folder's two."""
        yield from self._stored_in(_INCOMING)
        for name in self._names(_CONTENTS):
            yield from self._stored_in(_CONTENTS, name)

    def remove(self, key: str) -> None:
        """Remove a file, if it is there."""
        *folders, name = key.split("/")
        with suppress(FileNotFoundError), self.folder(*folders) as folder:
            os.unlink(name, dir_fd=folder)

    @contextmanager
    def folder(self, *names: str, create: bool = False) -> Iterator[int]:
        """Open a folder below the root as a descriptor, no link followed.

        :raises OSError: it is not there, or there is something else in its place
        """
        if create:
            self._root.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(name, _FOLDER_MODE, dir_fd=fd)
                        os.fsync(fd)
                outer, fd = fd, os.open(name, _IS_FOLDER, dir_fd=fd)
                os.close(outer)
            yield fd
        finally:
            os.close(fd)

    def _names(self, *folders: str) -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError), self.folder(*folders) as folder:
            return os.listdir(folder)  # noqa: PTH208 - a descriptor
        return []

    def _stored_in(self, *folders: str) -> Iterator[Stored]:
        for name in self._names(*folders):
            with suppress(FileNotFoundError), self.folder(*folders) as folder:
                seconds = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
                yield Stored(
                    "/".join((*folders, name)),
                    datetime.fromtimestamp(seconds, UTC),
                    is_unfinished=folders[0] == _INCOMING,
                    content_id=as_content_id(name) if folders[0] == _CONTENTS else None,
                )


class LocalIncoming:
    """A file in ``incoming`` that is renamed when it is whole, and safe on the disk."""

    def __init__(self, store: LocalFileStore) -> None:
        self.content_id = str(uuid7())
        self._store = store
        with store.folder(_INCOMING, create=True) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self.content_id, flags, _FILE_MODE, dir_fd=folder)

    def write(self, chunk: bytes) -> None:
        """Append a piece."""
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._fd, view) :]

    def finish(self) -> None:
        """Rename the file to its place once all of it is on the disk."""
        os.fsync(self._fd)
        self._close()
        folders = _CONTENTS, shard(self.content_id)
        with self._store.folder(_INCOMING) as source, self._store.folder(*folders, create=True) as target:
            os.rename(self.content_id, self.content_id, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)

    def discard(self) -> None:
        """Remove the file, wherever it is."""
        self._close()
        with suppress(OSError):
            self._store.remove(f"{_INCOMING}/{self.content_id}")
            self._store.remove_content(self.content_id)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
