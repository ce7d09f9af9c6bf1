# SPDX-License-Identifier: Apache-2.0
"""The files of a :class:`~airflow_asyncaction.testing.JobServer`, in memory."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from airflow_asyncaction.exceptions import FileRefused
from airflow_asyncaction.protocol import file_rules, strict_json
from airflow_asyncaction.protocol.actions import Action
from airflow_asyncaction.protocol.digests import Digests, digests
from airflow_asyncaction.protocol.files import (
    DEFAULT_MIMETYPE,
    DEFAULT_STORE,
    Announcement,
    FileRecord,
    Role,
    checked_property,
)
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import parse_object

MAX_FILES = 10_000
MAX_FILE_BYTES = 5 * 1024**3


@dataclass(frozen=True)
class StoredFile:
    """A file that is attached to an action; its index is its place among those of its property."""

    name: str
    content: bytes = field(repr=False)
    mimetype: str = DEFAULT_MIMETYPE
    metadata: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def digests(self) -> Digests:
        """What names the content."""
        return digests([self.content])

    @property
    def sha256(self) -> str:
        """Of the content, hex."""
        return self.digests.sha256

    @property
    def size_bytes(self) -> int:
        """Of the content."""
        return len(self.content)


class FilePath(NamedTuple):
    """The parts of the path of a file request, not validated yet."""

    store: str
    owner: str
    property: str


@dataclass(eq=False)
class _Slot:
    """An index that was given out, and the file there once its content was verified."""

    owner: str
    property_: str
    index: int
    role: Role
    announcement: Announcement | None = None
    file: StoredFile | None = None
    arrived: bytes | None = None  # straight in the object store, and the server was not told

    @property
    def name(self) -> str:
        if self.file is not None:
            return self.file.name
        return (self.announcement and self.announcement.name) or self.property_


@dataclass(frozen=True)
class _Token:
    """What a URL is for: one method, and one slot as it was announced then."""

    method: str
    slot: _Slot
    announced_md5: str = ""
    max_bytes: int = 0


class InMemoryFiles:
    """The files of all jobs of a server. A content that differs from its announcement is not attached.

    :param direct_uploads: behave like an object store
    """

    def __init__(self, *, direct_uploads: bool, max_files: int, max_file_bytes: int) -> None:
        self._is_direct = direct_uploads
        self._max_files = max_files
        self._max_file_bytes = max_file_bytes
        self._slots: list[_Slot] = []
        self._tokens: dict[str, _Token] = {}

    def add(self, job_id: str, property: str, file: StoredFile) -> None:  # noqa: A002
        """Attach an input without further ado."""
        index = len(self._of(job_id, property))
        self._slots.append(_Slot(job_id, property, index, Role.INPUT, file=file))

    def of(self, job_id: str) -> Mapping[str, list[StoredFile]]:
        """Return the attached files of one action by property; none of any other property."""
        found = defaultdict(list)
        for slot in sorted(self._slots, key=lambda slot: slot.index):
            if slot.owner == job_id and slot.file is not None:
                found[slot.property_].append(slot.file)
        return found

    def announce(self, action: Action, path: FilePath, body: bytes, hook_url: str) -> dict[str, Any]:
        """Answer ``PUT /upload/{store}/{uuid}/{property}``.

        :raises ProtocolError: it is no announcement
        :raises FileRefused: the file may not be sent
        """
        wanted = Announcement.from_json(parse_object(body))
        _check_own(action, path)
        file_rules.check_size(wanted.size_bytes, self._max_file_bytes)
        slot = self._slot_for(action.id, checked_property(path.property), wanted)
        if slot.file is None and (content := self._stored(wanted)) is not None:
            slot.file = _file(wanted, slot.name, content)
        url = None if slot.file is not None else self._upload_url(slot, wanted, hook_url)
        return file_rules.upload_response(slot.index, url, is_direct=self._is_direct)

    def complete(self, action: Action, path: FilePath, index: int) -> dict[str, Any]:
        """Answer ``POST /upload/{store}/{uuid}/{property}/{index}/complete``.

        :raises FileRefused: it is not there, or not what was announced
        """
        _check_own(action, path)
        slot = self._at(action.id, checked_property(path.property), index)
        if slot is None or slot.role is not Role.OUTPUT:
            raise file_rules.no_such_file()
        self._attach_pending(slot)
        if slot.file is None:
            raise file_rules.content_missing()
        return file_rules.attached_response(_record(slot, slot.file))

    def locate(
        self, action: Action, path: FilePath, index: int, hook_url: str, *, owners: Container[str]
    ) -> dict[str, Any]:
        """Answer ``GET /download/{store}/{uuid}/{property}/{index}``.

        :param owners: uuids of the actions whose files may be read
        :raises FileRefused: there is none, or it may not be read
        """
        file_rules.check_not_ended(action)
        _check_store(path.store)
        if path.owner.lower() not in owners:
            raise file_rules.not_readable()
        slot = self._at(path.owner.lower(), checked_property(path.property), index)
        if slot is None:
            raise file_rules.no_such_file()
        self._attach_pending(slot)
        if slot.file is None:
            raise file_rules.no_such_file()
        return file_rules.location_response(
            self._url(_Token("GET", slot), hook_url), _record(slot, slot.file)
        )

    def owner_of(self, token: str) -> tuple[str, int]:
        """Return whose content may be sent to a URL, and how large it may be.

        :raises FileRefused: the URL is not for that
        """
        known = self._read(token, "PUT")
        return known.slot.owner, known.max_bytes

    def take(self, action: Action, token: str, content: bytes) -> dict[str, Any]:
        """Take the content that was sent to a URL, and return the answer.

        :param action: of its owner
        :raises FileRefused: it cannot be attached
        """
        known = self._read(token, "PUT")
        if self._is_direct:
            known.slot.arrived = content
            return {}
        if known.slot not in self._slots:
            raise file_rules.not_expected()
        file_rules.check_not_ended(action)
        file = self._attach(known.slot, content, announced_md5=known.announced_md5)
        return file_rules.attached_response(_record(known.slot, file))

    def give(self, token: str) -> StoredFile:
        """Return what a URL stands for.

        :raises FileRefused: it is not for that
        """
        file = self._read(token, "GET").slot.file
        if file is None:
            raise file_rules.no_such_file()
        return file

    def expire_urls(self) -> None:
        """Let no URL be taken that was given out up to now."""
        self._tokens.clear()

    def _of(self, owner: str, property_: str) -> list[_Slot]:
        return [slot for slot in self._slots if (slot.owner, slot.property_) == (owner, property_)]

    def _at(self, owner: str, property_: str, index: int) -> _Slot | None:
        return next((slot for slot in self._of(owner, property_) if slot.index == index), None)

    def _slot_for(self, owner: str, property_: str, wanted: Announcement) -> _Slot:
        """Return the slot of a file: of the same one if it was announced before, else a new one."""
        name = wanted.name or property_
        for slot in sorted(self._of(owner, property_), key=lambda slot: (slot.file is None, slot.index)):
            if slot.role is Role.OUTPUT and slot.name == name and _is_same(slot, wanted):
                if slot.file is None:
                    slot.announcement = wanted
                return slot
        slot = _Slot(owner, property_, self._next_index(owner, property_), Role.OUTPUT, wanted)
        self._slots.append(slot)
        return slot

    def _next_index(self, owner: str, property_: str) -> int:
        slots = self._of(owner, property_)
        if any(slot.role is Role.INPUT for slot in slots):
            raise file_rules.property_taken(property_, holds=Role.INPUT, wanted=Role.OUTPUT)
        if sum(slot.owner == owner for slot in self._slots) >= self._max_files:
            raise file_rules.too_many_files(self._max_files)
        return max((slot.index for slot in slots), default=-1) + 1

    def _stored(self, wanted: Announcement) -> bytes | None:
        """Return the content that was announced, if it is stored already."""
        files = (slot.file for slot in self._slots if slot.file is not None)
        return next(
            (file.content for file in files if file_rules.describe_difference(wanted, file.digests) is None),
            None,
        )

    def _attach_pending(self, slot: _Slot) -> None:
        """Attach what has arrived in the object store."""
        if slot.file is None and slot.arrived is not None:
            arrived, slot.arrived = slot.arrived, None
            self._attach(slot, arrived, announced_md5=slot.announcement.md5 if slot.announcement else "")

    def _attach(self, slot: _Slot, content: bytes, *, announced_md5: str) -> StoredFile:
        announcement = slot.announcement
        assert announcement is not None  # noqa: S101 - of an input no URL is given out
        said = file_rules.describe_difference(announcement, digests([content]))
        if said is not None:
            if slot.file is None and announcement.md5 == announced_md5:  # else it was announced anew
                self._slots.remove(slot)
            raise file_rules.hash_mismatch(said)
        if slot.file is None:
            slot.file = _file(announcement, slot.name, content)
        return slot.file

    def _upload_url(self, slot: _Slot, wanted: Announcement, hook_url: str) -> str:
        max_bytes = self._max_file_bytes if wanted.size_bytes is None else wanted.size_bytes
        return self._url(_Token("PUT", slot, wanted.md5, max_bytes), hook_url)

    def _url(self, token: _Token, hook_url: str) -> str:
        text = secrets.token_urlsafe(18)
        self._tokens[text] = token
        return f"{hook_url}/content/{text}"

    def _read(self, text: str, method: str) -> _Token:
        token = self._tokens.get(text)
        if token is None:
            raise FileRefused("The URL was not made by this server", code="bad_token")
        if token.method != method:
            raise FileRefused(f"The URL is for {token.method} alone", code="bad_token")
        return token


def _check_own(action: Action, path: FilePath) -> None:
    if path.owner.lower() != action.id:
        raise file_rules.not_own()
    file_rules.check_not_ended(action)
    _check_store(path.store)


def _check_store(name: str) -> None:
    if name != DEFAULT_STORE:
        raise FileRefused(
            f"There is no file store of that name: there are {DEFAULT_STORE}", code="no_such_store"
        )


def _is_same(slot: _Slot, wanted: Announcement) -> bool:
    """Tell whether an announcement of the same name is of the same file."""
    known = slot.announcement
    is_same_content = known is not None and (known.md5, known.challenge) == (wanted.md5, wanted.challenge)
    return is_same_content or (slot.file is None and wanted.name is not None)


def _file(announcement: Announcement, name: str, content: bytes) -> StoredFile:
    return StoredFile(name, content, announcement.mimetype, strict_json.loads(announcement.metadata))


def _record(slot: _Slot, file: StoredFile) -> FileRecord:
    known = file.digests
    return FileRecord(
        action=JobId(slot.owner),
        property=slot.property_,
        index=slot.index,
        name=file.name,
        size_bytes=known.size_bytes,
        mimetype=file.mimetype,
        md5=known.md5,
        sha256=known.sha256,
        store=DEFAULT_STORE,
        uri="",
        metadata=strict_json.dumps(file.metadata),
    )
