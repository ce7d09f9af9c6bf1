# SPDX-License-Identifier: Apache-2.0
"""Uploads: receive content, verify it, and attach it to the file that was announced."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_asyncaction.exceptions import StoreUnavailable
from airflow_asyncaction.files.stores.base import FileStore, Incoming, convert_store_errors
from airflow_asyncaction.files.tokens import UploadToken
from airflow_asyncaction.protocol import file_rules
from airflow_asyncaction.protocol.digests import Digester, Digests
from airflow_asyncaction.protocol.files import FileRecord
from airflow_asyncaction.protocol.human_readable import format_size, format_transfer
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import SERVER_STREAM, LogLine
from airflow_asyncaction.store import files, reports, rows
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.files import ContentRow, FileRow
from airflow_asyncaction.store.rows import ActionRow, Transaction

_WORTH_A_THREAD_BYTES = 128 * 1024


class IncomingUpload:
    """Upload to the API server: written and digested while it arrives, in constant memory.

    Always call :meth:`close`: it discards an unfinished upload.

    :param hashers: threads that share the work of computing digests
    """

    def __init__(
        self, token: UploadToken, store: FileStore, incoming: Incoming, database: Database, hashers: Executor
    ) -> None:
        self._token = token
        self._store = store
        self._incoming = incoming
        self._database = database
        self._hashers = hashers
        self._digester = Digester()
        self._began_at = time.monotonic()
        self._working = threading.Lock()
        self._is_finishing = False

    def check_size(self, size_bytes: int) -> None:
        """Check the size of the content against the maximum size in the token.

        :raises FileRefused: the content is too large
        """
        file_rules.check_content_size(size_bytes, self._token.max_bytes)

    def write(self, chunk: bytes) -> None:
        """Write the next chunk.

        :raises FileRefused: the content exceeds the announced size or the limit
        :raises FileStoreUnavailable: the file store cannot write it
        """
        with self._working:
            self.check_size(self._digester.size_bytes + len(chunk))
            first, second = self._digester.update_steps(chunk)
            elsewhere = self._hashers.submit(first) if len(chunk) > _WORTH_A_THREAD_BYTES else first()
            with convert_store_errors(self._store):
                self._incoming.write(chunk)
            second()
            if elsewhere is not None:
                elsewhere.result()

    def finish(self) -> dict[str, Any]:
        """Verify the content, attach it to its file, and return the response.

        :raises FileRefused: the content differs from its announcement
        """
        with self._working:
            with convert_store_errors(self._store):
                self._incoming.finish()
            seconds = time.monotonic() - self._began_at
            content_id, md5 = self._incoming.content_id, self._token.md5
            self._is_finishing = True
            received = ReceivedContent(self._store, content_id, self._digester.result(), md5, seconds)
            file = attach(self._database, self._token.action_id, self._token.file_id, received)
        return file_rules.attached_response(file)

    def close(self) -> None:
        """Discard the content, unless :meth:`finish` has begun to attach it. Waits for a running finish."""
        with self._working:
            if not self._is_finishing:
                self._incoming.discard()


@dataclass(frozen=True)
class ReceivedContent:
    """Content that has arrived but is not attached yet.

    :param announced_md5: the MD5 that was announced when the upload started
    :param seconds: duration of the upload; if it was direct, since its announcement
    """

    store: FileStore
    content_id: str
    measured: Digests
    announced_md5: str
    seconds: float


def attach(
    database: Database,
    action_id: JobId,
    file_id: str,
    received: ReceivedContent,
    *,
    may_have_ended: bool = False,
) -> FileRecord:
    """Attach content to its file. If it differs from the announcement, delete it and the announcement.

    If the same content has been stored in the meantime, that copy is used instead.

    :param may_have_ended: whether to attach the file even if its action has ended
    :raises FileRefused: the content differs, or the file can no longer be attached
    """
    used_id: str | None = None

    def work(connection: Transaction) -> tuple[FileRow, ContentRow] | str:
        row = rows.lock(connection, action_id)
        file = files.by_id(connection, file_id)
        if row is None or file is None:
            raise file_rules.not_expected()
        if not may_have_ended:
            file_rules.check_not_ended(rows.to_action(row))
        return _attach(connection, row, file, received)

    try:
        outcome = database.run_transaction(work)
        if isinstance(outcome, str):
            raise file_rules.hash_mismatch(outcome)
        file, content = outcome
        used_id = content.id
    except StoreUnavailable:
        used_id = received.content_id  # it may be committed; if not, garbage collection deletes it
        raise
    finally:
        if used_id != received.content_id:
            with suppress(OSError):  # garbage collection deletes what is left
                received.store.remove_content(received.content_id)
    return to_record(file, content, received.store)


def link(connection: Transaction, row: ActionRow, file: FileRow, content: ContentRow, now: datetime) -> None:
    """Attach content that is already stored."""
    files.link(connection, file, content, now)
    _log(connection, row, file, f"{format_size(content.size_bytes)}, already stored", now)


def to_record(file: FileRow, content: ContentRow, store: FileStore) -> FileRecord:
    """Return the record of an attached file, as tasks receive it."""
    return FileRecord(
        action=file.action_id,
        property=file.property,
        index=file.file_index,
        name=file.name,
        size_bytes=content.size_bytes,
        mimetype=file.mimetype,
        md5=content.md5,
        sha256=content.sha256,
        store=store.name,
        uri=store.uri(content.id),
        metadata=file.file_metadata,
    )


def read_attached(connection: Transaction, file: FileRow) -> tuple[FileRow, ContentRow]:
    """Read an attached file and its content in this transaction."""
    found = files.attached(connection, file.action_id, file.property, file.file_index)
    if found is None:
        raise AssertionError("the attached file was not found in its own transaction")
    return found


def _attach(
    connection: Transaction, row: ActionRow, file: FileRow, received: ReceivedContent
) -> tuple[FileRow, ContentRow] | str:
    """Attach a file, or return how the content differs from the announcement."""
    now, measured = datetime.now(UTC), received.measured
    difference = file_rules.describe_difference(file, measured)
    if difference is not None:
        if file.attached_at is None and file.md5 == received.announced_md5:  # not announced again
            files.delete_file(connection, file)
        return difference
    if file.attached_at is not None:  # the same content was uploaded twice
        return read_attached(connection, file)
    content = ContentRow(
        id=received.content_id,
        store=received.store.name,
        md5=file.md5,
        challenge=file.challenge,
        challenge_proven=measured.challenge is not None,
        sha256=measured.sha256,
        size_bytes=measured.size_bytes,
    )
    content = files.attach(connection, file, content, now)
    _log(connection, row, file, format_transfer(measured.size_bytes, received.seconds), now)
    return file, content


def _log(connection: Transaction, row: ActionRow, file: FileRow, text: str, now: datetime) -> None:
    """Add a line to the action's log."""
    line = LogLine(
        f"{file.role} {file.property}[{file.file_index}] {file.name}: {text}", stream=SERVER_STREAM
    )
    reports.add_line(connection, row, "file", line, now)
