# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: deletes unused contents, files that never arrived, and the remains of crashes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.files.stores.base import FileStore, convert_store_errors
from airflow_asyncaction.files.stores.configured import FileStores
from airflow_asyncaction.store import files
from airflow_asyncaction.store.database import Database

OLDER_THAN = timedelta(days=1)
"""Default minimum age. Younger objects may belong to an upload in progress."""

_BATCH = 500


@dataclass
class Collected:
    """Number of deleted objects; with ``dry_run``, of those that would be deleted.

    :param files: files that were never uploaded or whose action was deleted
    :param contents: contents that no file uses; ``size_bytes`` is their total size
    :param remains: objects of unfinished uploads, and contents without a row
    :param unconfigured: contents in file stores that are not configured. They are never deleted.
    """

    files: int = 0
    contents: int = 0
    size_bytes: int = 0
    remains: int = 0
    unconfigured: int = 0


def collect(
    database: Database,
    stores: FileStores,
    *,
    older_than: timedelta = OLDER_THAN,
    now: datetime,
    dry_run: bool = False,
) -> Collected:
    """Delete garbage of a minimum age. This is safe while files are uploaded, and may run concurrently.

    A row is deleted before its content, so that no crash leaves a file without content.

    :param dry_run: only count. The count of contents does not include those of the counted files.
    :raises FileStoreUnavailable: a file store failed
    """
    before, collected = now - older_than, Collected()
    with database.transaction() as connection:
        collected.files = (
            files.count_expired(connection, before) if dry_run else files.delete_expired(connection, before)
        )
    _collect_contents(database, stores, before, collected, dry_run=dry_run)
    for store in stores:
        for key in _remains(database, store, before):
            collected.remains += 1
            if not dry_run:
                with convert_store_errors(store):
                    store.remove(key)
    return collected


def _collect_contents(
    database: Database, stores: FileStores, before: datetime, collected: Collected, *, dry_run: bool
) -> None:
    last_id: str | None = None
    while True:
        with database.transaction() as connection:
            unused = files.unused_contents(connection, before, last_id, _BATCH)
        if not unused:
            return
        last_id = unused[-1].id
        for content in unused:
            try:
                store = stores.get(content.store)
            except FileRefused:
                collected.unconfigured += 1
                continue
            if dry_run or _delete(database, store, content.id):
                collected.contents += 1
                collected.size_bytes += content.size_bytes


def _delete(database: Database, store: FileStore, content_id: str) -> bool:
    with database.transaction() as connection:
        is_deleted = files.delete_unused(connection, content_id)
    if is_deleted:
        with convert_store_errors(store):
            store.remove_content(content_id)
    return is_deleted


def _remains(database: Database, store: FileStore, before: datetime) -> Iterator[str]:
    """Yield the keys of unfinished uploads, and of contents without a row."""
    with convert_store_errors(store):
        old = [stored for stored in store.list_stored() if stored.modified_at < before]
    for start in range(0, len(old), _BATCH):
        batch = old[start : start + _BATCH]
        with database.transaction() as connection:
            ids = [stored.content_id for stored in batch if stored.content_id is not None]
            known = files.existing_contents(connection, ids)
        yield from (
            stored.key
            for stored in batch
            if stored.is_unfinished or (stored.content_id is not None and stored.content_id not in known)
        )
