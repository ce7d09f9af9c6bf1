# SPDX-License-Identifier: Apache-2.0
"""Files of a :class:`~airflow_asyncaction.testing.JobServer`, in memory."""

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
    """File that is attached to an action."""

    name: str
    content: bytes = field(repr=False)
    mimetype: str = DEFAULT_MIMETYPE
    metadata: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def digests(self) -> Digests:
        """Digests of the content."""
        return digests([self.content])

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, hex."""
        return self.digests.sha256

    @property
    def size_bytes(self) -> int:
        """Size of the content."""
        return len(self.content)


class FilePath(NamedTuple):
    """Store, action and property in the path of a request."""

    store: str
    owner: str
    property: str


@dataclass(eq=False)
class _Slot:
    """Index of a property, with the announcement and, once its content is verified, the file."""

    owner: str
    property_: str
    index: int
    role: Role
    announcement: Announcement | None = None
    file: StoredFile | None = None
    arrived: bytes | None = None  # uploaded to the object store, but not completed

    @property
    def name(self) -> str:
        if self.file is not None:
            return self.file.name
        return (self.announcement and self.announcement.name) or self.property_


@dataclass(frozen=True)
class _Token:
    """Method and slot of a content URL, with the announcement at that time."""

    method: str
    slot: _Slot
    announced_md5: str = ""
    max_bytes: int = 0


class InMemoryFiles:
    """Files of all jobs of a server. Content that differs from its announcement is not attached.

    :param direct_uploads: behave as if content were stored in an object store
    """

    def __init__(self, *, direct_uploads: bool, max_files: int, max_file_bytes: int) -> None:
        self._is_direct = direct_uploads
        self._max_files = max_files
        self._max_file_bytes = max_file_bytes
        self._slots: list[_Slot] = []
        self._tokens: dict[str, _Token] = {}

    def add(self, job_id: str, property: str, file: StoredFile) -> None:  # noqa: A002
        """Attach an input."""
        index = len(self._of(job_id, property))
        self._slots.append(_Slot(job_id, property, index, Role.INPUT, file=file))

    def of(self, job_id: str) -> Mapping[str, list[StoredFile]]:
        """Return the attached files of an action by property. Unknown properties have an empty list."""
        found = defaultdict(list)
        for slot in sorted(self._slots, key=lambda slot: slot.index):
            if slot.owner == job_id and slot.file is not None:
                found[slot.property_].append(slot.file)
        return found

    def announce(self, action: Action, path: FilePath, body: bytes, hook_url: str) -> dict[str, Any]:
        """Serve ``PUT /upload/{store}/{uuid}/{property}``.

        :raises ProtocolError: the announcement is malformed
        :raises FileRefused: the file may not be uploaded
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
        """Serve ``POST /upload/{store}/{uuid}/{property}/{index}/complete``.

        :raises FileRefused: the content is missing, or differs from its announcement
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
        """Serve ``GET /download/{store}/{uuid}/{property}/{index}``.

        :param owners: UUIDs of the actions whose files may be downloaded
        :raises FileRefused: the file does not exist, or may not be downloaded
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

    def find_owner(self, token: str) -> tuple[str, int]:
        """Return the action of an upload URL, and the maximum size of its content.

        :raises FileRefused: the token is invalid
        """
        known = self._read(token, "PUT")
        return known.slot.owner, known.max_bytes

    def store_content(self, action: Action, token: str, content: bytes) -> dict[str, Any]:
        """Store the content that was sent to an upload URL, and return the response.

        :param action: action of the URL
        :raises FileRefused: the content cannot be attached
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

    def find_file(self, token: str) -> StoredFile:
        """Return the file of a download URL.

        :raises FileRefused: the token is invalid
        """
        file = self._read(token, "GET").slot.file
        if file is None:
            raise file_rules.no_such_file()
        return file

    def expire_urls(self) -> None:
        """Invalidate all URLs that were returned so far."""
        self._tokens.clear()

    def _of(self, owner: str, property_: str) -> list[_Slot]:
        return [slot for slot in self._slots if (slot.owner, slot.property_) == (owner, property_)]

    def _at(self, owner: str, property_: str, index: int) -> _Slot | None:
        return next((slot for slot in self._of(owner, property_) if slot.index == index), None)

    def _slot_for(self, owner: str, property_: str, wanted: Announcement) -> _Slot:
        """Return the slot of a file: the existing one if it was announced before, otherwise a new one."""
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
        """Return the announced content, if it is already stored."""
        files = (slot.file for slot in self._slots if slot.file is not None)
        return next(
            (file.content for file in files if file_rules.describe_difference(wanted, file.digests) is None),
            None,
        )

    def _attach_pending(self, slot: _Slot) -> None:
        """Attach content that was uploaded to the object store."""
        if slot.file is None and slot.arrived is not None:
            arrived, slot.arrived = slot.arrived, None
            self._attach(slot, arrived, announced_md5=slot.announcement.md5 if slot.announcement else "")

    def _attach(self, slot: _Slot, content: bytes, *, announced_md5: str) -> StoredFile:
        announcement = slot.announcement
        assert announcement is not None  # noqa: S101 - inputs have no upload URL
        difference = file_rules.describe_difference(announcement, digests([content]))
        if difference is not None:
            if slot.file is None and announcement.md5 == announced_md5:  # otherwise it was announced again
                self._slots.remove(slot)
            raise file_rules.hash_mismatch(difference)
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
            raise FileRefused("The URL is invalid: this server did not sign it", code="bad_token")
        if token.method != method:
            raise FileRefused(f"The URL is only valid for {token.method}", code="bad_token")
        return token


def _check_own(action: Action, path: FilePath) -> None:
    if path.owner.lower() != action.id:
        raise file_rules.not_own()
    file_rules.check_not_ended(action)
    _check_store(path.store)


def _check_store(name: str) -> None:
    if name != DEFAULT_STORE:
        raise FileRefused(
            f"Unknown file store. The configured ones are {DEFAULT_STORE}", code="no_such_store"
        )


def _is_same(slot: _Slot, wanted: Announcement) -> bool:
    """Return whether an announcement with the same name belongs to the same file."""
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
