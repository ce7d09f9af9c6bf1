# SPDX-License-Identifier: Apache-2.0
"""Configured file stores: opens those in ``[asyncaction] file_stores``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.files.stores.base import FileStore
from airflow_asyncaction.files.stores.local import LocalFileStore
from airflow_asyncaction.protocol.files import DEFAULT_STORE


class FileStores:
    """Configured file stores by name. ``direct`` has the names of those that can sign URLs for PUT.

    :param urls: URLs by name. The first store is the default unless one is named ``default``.
    """

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._stores = {name: open_store(name, url) for name, url in urls.items()}
        self.direct = frozenset(store.name for store in self._stores.values() if store.is_direct)
        self._default = DEFAULT_STORE if DEFAULT_STORE in self._stores else next(iter(self._stores))

    def __iter__(self) -> Iterator[FileStore]:
        return iter(self._stores.values())

    def get(self, name: str) -> FileStore:
        """Return a file store by name. ``default`` is always known.

        :raises FileRefused: no file store has this name
        """
        store = self._stores.get(self._default if name == DEFAULT_STORE else name)
        if store is None:
            raise FileRefused(
                f"Unknown file store. The configured ones are {', '.join(self._stores)}",
                code="no_such_store",
            )
        return store


def open_store(name: str, url: str) -> FileStore:
    """Return the file store at a URL, without accessing it."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalFileStore(name, Path(unquote(parts.path)))
    # fsspec, and Airflow's modules for it
    from airflow_asyncaction.files.stores.object_storage import GoogleFileStore, ObjectFileStore
    from airflow_asyncaction.files.stores.s3 import S3FileStore

    kinds = {"s3": S3FileStore, "s3a": S3FileStore, "gs": GoogleFileStore, "gcs": GoogleFileStore}
    return kinds.get(parts.scheme, ObjectFileStore)(name, url)
