# SPDX-License-Identifier: Apache-2.0
"""The one moment in which a file becomes visible: its content is in the store, and is what was announced."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from airflow_asyncaction.exceptions import StoreUnavailable
from airflow_asyncaction.files.stores.base import FileStore, Measured
from airflow_asyncaction.protocol import file_rules
from airflow_asyncaction.protocol.file_rules import check_not_ended, describe_difference
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
    """A received content that is not attached yet.

    :param announced_md5: md5 announced when the transfer began
    :param seconds: duration of the transfer
    """

    store: FileStore
    content_id: str
    measured: Measured
    announced_md5: str
    seconds: float


class Attaching:
    """Attaches files to contents, and says so in the action's log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def attach(
        self, action_id: JobId, file_id: str, received: ReceivedContent, *, may_have_ended: bool = False
    ) -> FileRecord:
        """Attach a file to what has arrived, if it is what was announced; else keep neither.

        The content may have been stored by somebody else in the meantime: then theirs is used.

        :param may_have_ended: whether the file is taken although its action has ended
        :raises FileRefused: it is not, or the file cannot be attached any more
        """
        used_id: str | None = None

        def work(connection: Transaction) -> tuple[FileRow, ContentRow] | str:
            row, file = _lock(connection, action_id, file_id)
            if not may_have_ended:
                check_not_ended(rows.to_action(row))
            return _attach(connection, row, file, received)

        try:
            outcome = self._database.run_transaction(work)
            if isinstance(outcome, str):
                raise file_rules.hash_mismatch(outcome)
            file, content = outcome
            used_id = content.id
        except StoreUnavailable:
            used_id = received.content_id  # it may have been written all the same: garbage collection knows
            raise
        finally:
            if used_id != received.content_id:
                with suppress(OSError):  # what is left is found by garbage collection
                    received.store.remove_content(received.content_id)
        return record(file, content, received.store)

    def link(
        self, connection: Transaction, row: ActionRow, file: FileRow, content: ContentRow, now: datetime
    ) -> None:
        """Attach a file to a content that is stored already."""
        files.link(connection, file, content, now)
        said = f"{format_size(content.size_bytes)}, already stored"
        reports.add_line(connection, row, "file", _line(file, said), now)


def record(file: FileRow, content: ContentRow, store: FileStore) -> FileRecord:
    """Return an attached file as its task knows it."""
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


def attached(connection: Transaction, file: FileRow) -> tuple[FileRow, ContentRow]:
    """Return a file that is attached, as it is read in this transaction, with its content."""
    found = files.attached(connection, file.action_id, file.property, file.file_index)
    if found is None:
        raise AssertionError("an attached file can be read in its own transaction")
    return found


def _attach(
    connection: Transaction, row: ActionRow, file: FileRow, received: ReceivedContent
) -> tuple[FileRow, ContentRow] | str:
    """Attach a file; or return how what was found differs from what was announced."""
    now = datetime.now(UTC)
    said = describe_difference(file, received.measured)
    if said is not None:
        if file.attached_at is None and file.md5 == received.announced_md5:  # else it was announced anew
            files.delete_file(connection, file)
        return said
    if file.attached_at is not None:  # the same content was sent twice
        return attached(connection, file)
    content = files.attach(connection, file, _content(file, received), now)
    said = format_transfer(received.measured.size_bytes, received.seconds)
    reports.add_line(connection, row, "file", _line(file, said), now)
    return file, content


def _lock(connection: Transaction, action_id: JobId, file_id: str) -> tuple[ActionRow, FileRow]:
    """Lock an action, and read a file of it as nobody can change it any more."""
    row = rows.lock(connection, action_id)
    file = files.by_id(connection, file_id)
    if row is None or file is None:
        raise file_rules.not_expected()
    return row, file


def _content(file: FileRow, received: ReceivedContent) -> ContentRow:
    return ContentRow(
        id=received.content_id,
        store=received.store.name,
        md5=file.md5,
        challenge=file.challenge,
        challenge_proven=received.measured.challenge is not None,
        sha256=received.measured.sha256,
        size_bytes=received.measured.size_bytes,
    )


def _line(file: FileRow, said: str) -> LogLine:
    which = f"{file.role} {file.property}[{file.file_index}] {file.name}"
    return LogLine(f"{which}: {said}", stream=SERVER_STREAM)
