# SPDX-License-Identifier: Apache-2.0
"""The one moment in which a file becomes visible: its content is in the store, and is what was announced."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.filestores.base import FileStore, Measured
from airflow_asyncaction.protocol.files import FileRecord
from airflow_asyncaction.protocol.reports import SERVER_STREAM, LogLine
from airflow_asyncaction.protocol.transfers import describe, describe_size
from airflow_asyncaction.store import files, reports, rows
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.files import Content


@dataclass(frozen=True)
class Found:
    """A content that has arrived, and is not attached yet.

    :param seconds: how long it took
    """

    store: FileStore
    content_id: str
    measured: Measured
    seconds: float


class Attaching:
    """Attaches files to contents, and says so in the action's log."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions

    def attach(self, file_id: str, found: Found) -> FileRecord:
        """Attach a file to what has arrived, if it is what was announced; else keep neither.

        The content may have been stored by somebody else in the meantime: then theirs is used.

        :raises FileRefused: it is not, or the file cannot be attached any more
        """
        used: str | None = None
        try:
            try:
                file, used = self._attach(file_id, found)
            except IntegrityError:  # somebody else stored the same content in the same moment
                file, used = self._attach(file_id, found)
        finally:
            if used != found.content_id:
                with suppress(OSError):  # what is left is found by garbage collection
                    found.store.remove_content(found.content_id)
        measured = found.measured
        return record(file, found.store, used, sha256=measured.sha256, size_bytes=measured.size_bytes)

    def link(
        self,
        connection: Connection,
        row: Row[Any],
        file: Row[Any],
        content_id: str,
        size_bytes: int,
        now: datetime,
    ) -> None:
        """Attach a file to a content that is stored already."""
        files.link(connection, file, content_id, now)
        said = f"{describe_size(size_bytes)}, already stored"
        reports.keep_line(connection, row, "file", _line(file, said), now)

    def _attach(self, file_id: str, found: Found) -> tuple[Row[Any], str]:
        now = datetime.now(UTC)
        with self._actions.transaction() as connection:
            row, file = self._lock(connection, file_id)
            if file.attached_at is not None:  # the same content was sent twice
                return file, str(file.content_id)
            difference = _difference(file, found.measured)
            if difference is None:
                content_id = files.attach(connection, file, _content(file, found), now)
                said = describe(found.measured.size_bytes, found.seconds)
                reports.keep_line(connection, row, "file", _line(file, said), now)
                return file, content_id
            files.forget(connection, file.id)
        raise FileRefused(
            f"{difference}: nothing was kept. If it has changed since it was announced, announce it anew",
            code="hash_mismatch",
        )

    def _lock(self, connection: Connection, file_id: str) -> tuple[Row[Any], Row[Any]]:
        """Lock the action of a file, then read the file as nobody can change it any more."""
        gone = FileRefused("This file is not awaited any more: announce it anew", code="no_such_file")
        file = files.by_id(connection, file_id)
        if file is None:
            raise gone
        row = rows.lock(connection, file.action_id)
        file = files.by_id(connection, file_id)
        if row is None or file is None:
            raise gone
        if row.fenced:
            raise FileRefused("A newer attempt took over: stop", code="superseded")
        return row, file


def record(file: Row[Any], store: FileStore, content_id: str, *, sha256: str, size_bytes: int) -> FileRecord:
    """Return an attached file as its task knows it."""
    return FileRecord(
        action=file.action_id,
        property=file.property,
        index=file.file_index,
        name=file.name,
        size_bytes=size_bytes,
        mimetype=file.mimetype,
        md5=file.md5,
        sha256=sha256,
        store=store.name,
        uri=store.uri(content_id),
        metadata=file.file_metadata,
    )


def _difference(file: Row[Any], measured: Measured) -> str | None:
    """Return how a content differs from what was announced, if it does."""
    if file.size_bytes not in (None, measured.size_bytes):
        return f"The content has {measured.size_bytes} bytes, not the announced {file.size_bytes}"
    if file.md5 != measured.md5:
        return "The content has another md5 than the announced hash"
    if measured.challenge not in (None, file.challenge):
        return "The content has another challenge than the announced one"
    if file.sha256 not in (None, measured.sha256):
        return "The content has another sha256 than the announced one"
    return None


def _content(file: Row[Any], found: Found) -> Content:
    return Content(
        id=found.content_id,
        store=found.store.name,
        md5=file.md5,
        challenge=file.challenge,
        challenge_proven=found.measured.challenge is not None,
        sha256=found.measured.sha256,
        size_bytes=found.measured.size_bytes,
    )


def _line(file: Row[Any], said: str) -> LogLine:
    return LogLine(
        f"{file.role} {file.property}[{file.file_index}] {file.name}: {said}", stream=SERVER_STREAM
    )
