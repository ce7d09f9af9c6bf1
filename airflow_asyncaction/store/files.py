# SPDX-License-Identifier: Apache-2.0
"""Files: rows of ``async_action_file`` and ``async_action_content``.

A file is announced, then attached to content that is stored and verified. Callers lock the row of the
action, so that the files of one action change sequentially.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from uuid6 import uuid7

from airflow_asyncaction.protocol.file_rules import property_taken, too_many_files
from airflow_asyncaction.protocol.files import Announcement, Role
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.store.models import action_table, content_table, file_table

_files, _contents = file_table.c, content_table.c


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A row of ``async_action_file``: the announcement of a file, and its content once it is attached.

    :param content_id: ``None`` until the file is attached
    """

    id: str
    action_id: JobId
    property: str
    file_index: int
    role: str
    name: str
    mimetype: str
    file_metadata: JsonText
    store: str
    md5: str
    challenge: str
    sha256: str | None
    size_bytes: int | None
    announced_at: datetime
    content_id: str | None = None
    attached_at: datetime | None = None


@dataclass(frozen=True)
class ContentRow:
    """A row of ``async_action_content``: the measured digests and size of stored content.

    :param challenge_proven: whether the challenge was computed by a trusted party, not only announced
    """

    id: str
    store: str
    md5: str
    challenge: str
    challenge_proven: bool
    sha256: str
    size_bytes: int


_CONTENT_COLUMNS = {field.name: _contents[field.name] for field in fields(ContentRow)}
_FILE_COLUMNS = tuple(field.name for field in fields(FileRow))

_OF_PROPERTY = and_(_files.action_id == bindparam("action_id"), _files.property == bindparam("property"))
_ROOM = select(
    select(func.max(_files.file_index)).where(_OF_PROPERTY).scalar_subquery().label("highest"),
    select(func.min(_files.role)).where(_OF_PROPERTY).scalar_subquery().label("role"),
    select(func.count()).where(_files.action_id == bindparam("action_id")).scalar_subquery().label("files"),
)
_ANNOUNCED_BEFORE = (
    select(file_table)
    .where(
        _OF_PROPERTY,
        _files.role == bindparam("role"),
        _files.name == bindparam("name"),
        or_(
            and_(_files.md5 == bindparam("md5"), _files.challenge == bindparam("challenge")),
            and_(_files.attached_at.is_(None), bindparam("is_named", type_=Boolean)),
        ),
    )
    .order_by(_files.attached_at.is_(None), _files.file_index)
    .limit(1)
)
_BY_ID = select(file_table).where(_files.id == bindparam("file_id"))
_BY_INDEX = select(file_table).where(_OF_PROPERTY, _files.file_index == bindparam("file_index"))
_CONTENTS_OF_DIGESTS = select(*_CONTENT_COLUMNS.values()).where(
    _contents.md5 == bindparam("md5"),
    _contents.challenge == bindparam("challenge"),
    _contents.store == bindparam("store"),
)
_ATTACHED = (
    select(file_table, *(column.label(f"its_{name}") for name, column in _CONTENT_COLUMNS.items()))
    .join(content_table, _files.content_id == _contents.id)
    .where(_files.action_id == bindparam("action_id"))
)
_ATTACHED_AT_INDEX = _ATTACHED.where(
    _files.property == bindparam("property"), _files.file_index == bindparam("file_index")
)
_ATTACHED_IN_ROLE = _ATTACHED.where(_files.role == bindparam("role")).order_by(
    _files.property, _files.file_index
)
_PENDING = select(file_table).where(_files.action_id == bindparam("action_id"), _files.attached_at.is_(None))
_INSERT_FILE = insert(file_table)
_INSERT_CONTENT = insert(content_table)
_UPDATE_FILE = update(file_table).where(_files.id == bindparam("file_id"))
_DELETE_FILE = delete(file_table).where(_files.id == bindparam("file_id"))
_DELETE_UNUSED = delete(content_table).where(
    _contents.id == bindparam("content_id"), ~select(1).where(_files.content_id == _contents.id).exists()
)


def announce(
    connection: Connection,
    action_id: JobId,
    property_: str,
    announcement: Announcement,
    *,
    store: str,
    role: Role,
    max_files: int,
    now: datetime,
) -> FileRow:
    """Insert the announcement of a file, and return the file.

    An attached file with the same name and digests is returned as it is. A file that has not arrived is
    updated if it is announced again under its name.

    :raises FileRefused: the property holds files of the other role, or the action has too many files
    """
    earlier = _announced_before(connection, action_id, property_, announcement, role)
    if earlier is not None and earlier.attached_at is not None:
        return earlier
    columns = _announced_columns(property_, announcement, store=store, role=role, now=now)
    if earlier is not None:
        connection.execute(_UPDATE_FILE, {"file_id": earlier.id, **columns})
        return replace(earlier, **columns)
    index = _next_index(connection, action_id, property_, role=role, max_files=max_files)
    file = FileRow(id=str(uuid7()), action_id=action_id, file_index=index, **columns)
    connection.execute(_INSERT_FILE, vars(file))
    return file


def announcement_of(file: FileRow, content: ContentRow) -> Announcement:
    """Return an announcement of an attached file, with all digests of its content."""
    return Announcement(
        md5=content.md5,
        challenge=content.challenge,
        sha256=content.sha256,
        size_bytes=content.size_bytes,
        name=file.name,
        mimetype=file.mimetype,
        metadata=file.file_metadata,
    )


def by_id(connection: Connection, file_id: str) -> FileRow | None:
    """Return a file by its id, attached or not."""
    return _file(connection.execute(_BY_ID, {"file_id": file_id}).one_or_none())


def by_index(connection: Connection, action_id: JobId, property_: str, index: int) -> FileRow | None:
    """Return a file by its property and index, attached or not."""
    key = {"action_id": action_id, "property": property_, "file_index": index}
    return _file(connection.execute(_BY_INDEX, key).one_or_none())


def attached(
    connection: Connection, action_id: JobId, property_: str, index: int
) -> tuple[FileRow, ContentRow] | None:
    """Return an attached file and its content."""
    key = {"action_id": action_id, "property": property_, "file_index": index}
    row = connection.execute(_ATTACHED_AT_INDEX, key).one_or_none()
    return None if row is None else _with_content(row)


def attached_in(connection: Connection, action_id: JobId, role: Role) -> list[tuple[FileRow, ContentRow]]:
    """Return the attached files of an action and their contents, ordered by property and index."""
    rows = connection.execute(_ATTACHED_IN_ROLE, {"action_id": action_id, "role": role.value})
    return [_with_content(row) for row in rows]


def pending(connection: Connection, action_id: JobId, *, stores: frozenset[str]) -> list[FileRow]:
    """Return the files of an action that are announced for one of the stores and not attached."""
    rows = connection.execute(_PENDING, {"action_id": action_id})
    return [_to_file(row) for row in rows if row.store in stores]


def known_content(connection: Connection, file: FileRow) -> ContentRow | None:
    """Return stored content that is certain to equal the announced content.

    Equal md5 and challenge are not enough if the challenge was only announced: colliding content could then
    be substituted.
    """
    for content in _find_by_digests(connection, file):
        if file.size_bytes not in (None, content.size_bytes):
            continue
        if content.sha256 == file.sha256 or (file.sha256 is None and content.challenge_proven):
            return content
    return None


def attach(connection: Connection, file: FileRow, content: ContentRow, now: datetime) -> ContentRow:
    """Attach a file to content, or to equal content that is already stored. Return the one used."""
    for known in _find_by_digests(connection, file):
        if (known.sha256, known.size_bytes) == (content.sha256, content.size_bytes):
            link(connection, file, known, now)
            return known
    connection.execute(_INSERT_CONTENT, {**vars(content), "created_at": now})
    link(connection, file, content, now)
    return content


def link(connection: Connection, file: FileRow, content: ContentRow, now: datetime) -> None:
    """Attach a file to stored content."""
    connection.execute(_UPDATE_FILE, {"file_id": file.id, "content_id": content.id, "attached_at": now})


def delete_file(connection: Connection, file: FileRow) -> None:
    """Delete an announced file."""
    connection.execute(_DELETE_FILE, {"file_id": file.id})


def unused_contents(
    connection: Connection, before: datetime, after_id: str | None, limit: int
) -> list[Row[Any]]:
    """Return contents without a file, ordered by id."""
    query = (
        select(_contents.id, _contents.store, _contents.size_bytes)
        .where(_contents.created_at < before)
        .where(~select(1).where(_files.content_id == _contents.id).exists())
        .order_by(_contents.id)
        .limit(limit)
    )
    return list(connection.execute(query if after_id is None else query.where(_contents.id > after_id)))


def delete_unused(connection: Connection, content_id: str) -> bool:
    """Delete content unless a file refers to it. Return whether it was deleted."""
    try:
        with connection.begin_nested():
            return connection.execute(_DELETE_UNUSED, {"content_id": content_id}).rowcount == 1
    except IntegrityError:  # a concurrent transaction has attached a file
        return False


def count_expired(connection: Connection, before: datetime) -> int:
    """Count the files that :func:`delete_expired` would delete."""
    return connection.scalar(select(func.count()).select_from(file_table).where(_is_expired(before))) or 0


def delete_expired(connection: Connection, before: datetime) -> int:
    """Delete files announced before this time that never arrived, and files of deleted actions."""
    return connection.execute(delete(file_table).where(_is_expired(before))).rowcount


def existing_contents(connection: Connection, content_ids: list[str]) -> set[str]:
    """Return the ids for which content exists."""
    return set(connection.scalars(select(_contents.id).where(_contents.id.in_(content_ids))))


def _announced_before(
    connection: Connection, action_id: JobId, property_: str, announcement: Announcement, role: Role
) -> FileRow | None:
    key = {
        "role": role.value,
        "action_id": action_id,
        "property": property_,
        "name": announcement.name or property_,
        "md5": announcement.md5,
        "challenge": announcement.challenge,
        "is_named": announcement.name is not None,
    }
    return _file(connection.execute(_ANNOUNCED_BEFORE, key).one_or_none())


def _announced_columns(
    property_: str, announcement: Announcement, *, store: str, role: Role, now: datetime
) -> dict[str, Any]:
    return {
        "property": property_,
        "role": role.value,
        "name": announcement.name or property_,
        "mimetype": announcement.mimetype,
        "file_metadata": announcement.metadata,
        "store": store,
        "md5": announcement.md5,
        "challenge": announcement.challenge,
        "sha256": announcement.sha256,
        "size_bytes": announcement.size_bytes,
        "announced_at": now,
    }


def _next_index(
    connection: Connection, action_id: JobId, property_: str, *, role: Role, max_files: int
) -> int:
    room = connection.execute(_ROOM, {"action_id": action_id, "property": property_}).one()
    if room.role not in (None, role.value):
        raise property_taken(property_, holds=Role(room.role), wanted=role)
    if room.files >= max_files:
        raise too_many_files(max_files)
    return 0 if room.highest is None else int(room.highest) + 1


def _is_expired(before: datetime) -> ColumnElement[bool]:
    never_arrived = and_(_files.attached_at.is_(None), _files.announced_at < before)
    return or_(never_arrived, ~select(1).where(action_table.c.id == _files.action_id).exists())


def _find_by_digests(connection: Connection, file: FileRow) -> list[ContentRow]:
    digests = {"md5": file.md5, "challenge": file.challenge, "store": file.store}
    return [ContentRow(*row) for row in connection.execute(_CONTENTS_OF_DIGESTS, digests)]


def _file(row: Row[Any] | None) -> FileRow | None:
    return None if row is None else _to_file(row)


def _to_file(row: Row[Any]) -> FileRow:
    return FileRow(**{name: getattr(row, name) for name in _FILE_COLUMNS})


def _with_content(row: Row[Any]) -> tuple[FileRow, ContentRow]:
    return _to_file(row), ContentRow(*(getattr(row, f"its_{name}") for name in _CONTENT_COLUMNS))
