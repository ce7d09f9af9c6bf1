# SPDX-License-Identifier: Apache-2.0
"""Attaching: makes a file visible once its content is stored and matches its announcement."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from airflow_asyncaction.exceptions import StoreUnavailable
from airflow_asyncaction.files.stores.base import FileStore
from airflow_asyncaction.protocol import file_rules
from airflow_asyncaction.protocol.file_rules import Arrived, check_not_ended, describe_difference
from airflow_asyncaction.protocol.files import FileRecord
from airflow_asyncaction.protocol.human_readable import format_size, format_transfer
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import SERVER_STREAM, LogLine
from airflow_asyncaction.store import files, reports, rows
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.files import ContentRow, FileRow
from airflow_asyncaction.store.rows import ActionRow, Transaction


@dataclass(frozen=True)
class ReceivedContent:
    """Content that has arrived but is not attached yet.

    :param announced_md5: announced MD5 when the upload started
    :param seconds: duration of the upload
    """

    store: FileStore
    content_id: str
    measured: Arrived
    announced_md5: str
    seconds: float


class Attaching:
    """Attaches contents to files, with a line in the action's log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def attach(
        self, action_id: JobId, file_id: str, found: ReceivedContent, *, may_have_ended: bool = False
    ) -> FileRecord:
        """Attach content to its file. If it differs from the announcement, delete both.

        If the same content has been stored in the meantime, that copy is used instead.

        :param may_have_ended: whether to attach the file even if its action has ended
        :raises FileRefused: the content differs, or the file can no longer be attached
        """
        used_id: str | None = None

        def work(connection: Transaction) -> tuple[FileRow, ContentRow] | str:
            row, file = _lock(connection, action_id, file_id)
            if not may_have_ended:
                check_not_ended(rows.to_action(row))
            return _attach(connection, row, file, found)

        try:
            outcome = self._database.run_transaction(work)
            if isinstance(outcome, str):
                raise file_rules.hash_mismatch(outcome)
            file, content = outcome
            used_id = content.id
        except StoreUnavailable:
            used_id = found.content_id  # it may be committed; if not, garbage collection deletes it
            raise
        finally:
            if used_id != found.content_id:
                with suppress(OSError):  # garbage collection deletes what is left
                    found.store.remove_content(found.content_id)
        return to_record(file, content, found.store)

    def link(
        self, connection: Transaction, row: ActionRow, file: FileRow, content: ContentRow, now: datetime
    ) -> None:
        """Attach content that is already stored."""
        files.link(connection, file, content, now)
        said = f"{format_size(content.size_bytes)}, already stored"
        reports.add_line(connection, row, "file", _line(file, said), now)


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
        raise AssertionError("an attached file can be read in its own transaction")
    return found


def _attach(
    connection: Transaction, row: ActionRow, file: FileRow, found: ReceivedContent
) -> tuple[FileRow, ContentRow] | str:
    """Attach a file, or return how the content differs from the announcement."""
    now = datetime.now(UTC)
    said = describe_difference(file, found.measured)
    if said is not None:
        if file.attached_at is None and file.md5 == found.announced_md5:  # otherwise it was announced again
            files.delete_file(connection, file)
        return said
    if file.attached_at is not None:  # the same content was uploaded twice
        return read_attached(connection, file)
    content = files.attach(connection, file, _content(file, found), now)
    said = format_transfer(found.measured.size_bytes, found.seconds)
    reports.add_line(connection, row, "file", _line(file, said), now)
    return file, content


def _lock(connection: Transaction, action_id: JobId, file_id: str) -> tuple[ActionRow, FileRow]:
    """Lock an action, and read one of its files, which nobody can change now."""
    row = rows.lock(connection, action_id)
    file = files.by_id(connection, file_id)
    if row is None or file is None:
        raise file_rules.not_expected()
    return row, file


def _content(file: FileRow, found: ReceivedContent) -> ContentRow:
    return ContentRow(
        id=found.content_id,
        store=found.store.name,
        md5=file.md5,
        challenge=file.challenge,
        challenge_proven=found.measured.challenge is not None,
        sha256=found.measured.sha256,
        size_bytes=found.measured.size_bytes,
    )


def _line(file: FileRow, said: str) -> LogLine:
    which = f"{file.role} {file.property}[{file.file_index}] {file.name}"
    return LogLine(f"{which}: {said}", stream=SERVER_STREAM)
