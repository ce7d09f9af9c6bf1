# SPDX-License-Identifier: Apache-2.0
"""Local file store: a folder that all API servers share.

``contents/<last two digits>/<id>`` are contents, and ``incoming/<id>`` are unfinished uploads. Symbolic links
below the folder are not followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from uuid6 import uuid7

from airflow_asyncaction.files.stores.base import StoredObject, get_shard, parse_content_id
from airflow_asyncaction.protocol.digests import Digests

_CONTENTS = "contents"
_INCOMING = "incoming"
_FOLDER_MODE = 0o750
_FILE_MODE = 0o640
_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: do not hang on a pipe
_IS_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalFileStore:
    """Stores contents in a folder, which is created by the first upload.

    All transfers pass through the API server, since a folder has no signed URLs.

    :param root: absolute path of the folder. It may contain symbolic links.
    """

    is_direct = False

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root

    def check(self) -> None:
        """Check that the folder exists, or can be created, and is writable."""
        with self.open_folder(_INCOMING, create=True) as folder:
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder):
                raise PermissionError(errno.EACCES, "The folder is not writable", str(self._root))

    def uri(self, content_id: str) -> str:
        """Return a ``file://`` URL."""
        return (self._root / _CONTENTS / get_shard(content_id) / content_id).as_uri()

    def receive(self) -> LocalIncoming:
        """Start to write new content."""
        return LocalIncoming(self)

    def open(self, content_id: str) -> BinaryIO:
        """Open content for reading."""
        with self.open_folder(_CONTENTS, get_shard(content_id)) as folder:
            fd = os.open(content_id, _TO_READ, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileNotFoundError(f"{content_id} is not a regular file")
        return os.fdopen(fd, "rb", buffering=0)

    def signed_put(self, upload_id: str, valid_for: timedelta) -> None:
        """Return ``None``: uploads pass through the API server."""

    def signed_get(self, content_id: str, valid_for: timedelta) -> None:
        """Return ``None``: downloads pass through the API server."""

    def accept(self, upload_id: str, content_id: str, *, md5: str) -> Digests:
        """Raise ``FileNotFoundError``: all uploads pass through the API server."""
        raise FileNotFoundError(f"No direct upload {upload_id}")

    def withdraw(self, upload_id: str) -> None:
        """Do nothing: all uploads pass through the API server."""

    def remove_content(self, content_id: str) -> None:
        """Delete content, if it exists."""
        self.remove(f"{_CONTENTS}/{get_shard(content_id)}/{content_id}")

    def list_stored(self) -> Iterator[StoredObject]:
        """Yield all files in ``incoming`` and ``contents``."""
        yield from self._list_folder(_INCOMING)
        for name in self._list_names(_CONTENTS):
            yield from self._list_folder(_CONTENTS, name)

    def remove(self, key: str) -> None:
        """Delete a file, if it exists."""
        *folders, name = key.split("/")
        with suppress(FileNotFoundError), self.open_folder(*folders) as folder:
            os.unlink(name, dir_fd=folder)

    @contextmanager
    def open_folder(self, *names: str, create: bool = False) -> Iterator[int]:
        """Open a folder below the root as a descriptor, without following links.

        :raises OSError: it does not exist or is not a folder
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

    def _list_names(self, *folders: str) -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError), self.open_folder(*folders) as folder:
            return os.listdir(folder)  # noqa: PTH208 - pathlib takes no descriptor
        return []

    def _list_folder(self, *folders: str) -> Iterator[StoredObject]:
        for name in self._list_names(*folders):
            with suppress(FileNotFoundError), self.open_folder(*folders) as folder:
                seconds = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
                yield StoredObject(
                    "/".join((*folders, name)),
                    datetime.fromtimestamp(seconds, UTC),
                    is_unfinished=folders[0] == _INCOMING,
                    content_id=parse_content_id(name) if folders[0] == _CONTENTS else None,
                )


class LocalIncoming:
    """File in ``incoming`` that is moved to ``contents`` once it is complete and flushed to disk."""

    def __init__(self, store: LocalFileStore) -> None:
        self.content_id = str(uuid7())
        self._store = store
        with store.open_folder(_INCOMING, create=True) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self.content_id, flags, _FILE_MODE, dir_fd=folder)

    def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._fd, view) :]

    def finish(self) -> None:
        """Flush the file to disk, and move it to ``contents``."""
        os.fsync(self._fd)
        self._close()
        folders = _CONTENTS, get_shard(self.content_id)
        store = self._store
        with store.open_folder(_INCOMING) as source, store.open_folder(*folders, create=True) as target:
            os.rename(self.content_id, self.content_id, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)

    def discard(self) -> None:
        """Delete the file in either folder."""
        self._close()
        with suppress(OSError):
            self._store.remove(f"{_INCOMING}/{self.content_id}")
            self._store.remove_content(self.content_id)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
