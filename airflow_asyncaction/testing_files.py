# SPDX-License-Identifier: Apache-2.0
"""The files of a :class:`~airflow_asyncaction.testing.JobServer`, in memory."""

from __future__ import annotations

import json
import re
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.digests import Digests, digests
from airflow_asyncaction.protocol.files import DEFAULT_MIMETYPE, Announcement, FileRecord
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import parse_object

Answer = tuple[int, dict[str, Any]]

_CHUNK_BYTES = 64 * 1024
_RANGE = re.compile(r"bytes=([0-9]+)-")
_FILE_ROUTE = re.compile(
    r"/(download|upload)/default/([^/]+)/([A-Za-z_][A-Za-z0-9_]{0,63})(?:/([0-9]+)(/complete)?)?"
)


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


@dataclass
class _Slot:
    """An index that was given out, and the file there once its content was verified."""

    announcement: Announcement | None
    file: StoredFile | None = None
    arrived: bytes | None = None  # straight in the object store, and not told of


class Files:
    """The files of all jobs of a server. What a content is not verified against, it is not attached for."""

    def __init__(self, *, direct_uploads: bool) -> None:
        self.direct_uploads = direct_uploads
        self.cuts: list[int] = []
        self.refusals: list[Answer] = []
        self.bytes_per_second: int | None = None
        self._slots: dict[tuple[str, str], list[_Slot]] = {}
        self._tokens: dict[str, _Slot] = {}

    def add(self, job_id: str, property: str, file: StoredFile) -> None:  # noqa: A002
        """Attach a file without further ado."""
        self._slots.setdefault((job_id, property), []).append(_Slot(None, file))

    def of(self, job_id: str) -> dict[str, list[StoredFile]]:
        """Return the attached files of one action by property."""
        return {
            name: [slot.file for slot in slots if slot.file is not None]
            for (owner, name), slots in list(self._slots.items())
            if owner == job_id
        }

    def answer(self, job_id: str, hook: str, request: tuple[str, str], body: bytes) -> Answer | None:
        """Answer a signed request about files; ``None``: it is about something else.

        :raises ProtocolError: it cannot be taken
        """
        found = _FILE_ROUTE.fullmatch(request[1])
        if found is None:
            return None
        verb, of, name, index, complete = found.groups()
        slots = self._slots.setdefault((of, name), [])
        match request[0], verb, index is not None, complete is not None:
            case "GET", "download", True, False:
                return self._download(slots, name, int(index), hook)
            case "PUT", "upload", False, False if of == job_id:
                return self._upload(slots, body, hook)
            case "POST", "upload", True, True if of == job_id:
                return _complete(slots, name, int(index))
            case _:
                return _refusal(HTTPStatus.FORBIDDEN, "not_yours")

    def take(self, token: str, content: bytes) -> Answer:
        """Take the content that was sent to a URL."""
        slot = self._tokens.get(token)
        if slot is None:
            return _refusal(HTTPStatus.FORBIDDEN, "bad_token")
        if self.direct_uploads:
            slot.arrived = content
            return 200, {}
        return _attach(slot, content)

    def give(self, token: str) -> StoredFile | None:
        """Return what a URL stands for."""
        slot = self._tokens.get(token)
        return None if slot is None else slot.file

    def expire_urls(self) -> None:
        """Let no URL be taken that was given out up to now."""
        self._tokens.clear()

    def _download(self, slots: list[_Slot], name: str, index: int, hook: str) -> Answer:
        file = slots[index].file if index < len(slots) else None
        if file is None:
            return _refusal(HTTPStatus.NOT_FOUND, "no_such_file")
        return 200, {"Location": self._url(slots[index], hook), "Map": _map(name, index, file)}

    def _upload(self, slots: list[_Slot], body: bytes, hook: str) -> Answer:
        wanted = Announcement.from_json(parse_object(body))
        known = next((slot for slot in slots if slot.announcement == wanted), None)
        slot = known or _Slot(wanted)
        if known is None:
            slots.append(slot)
        index = slots.index(slot)
        if slot.file is None and (content := self._stored(wanted)) is not None:
            _attach(slot, content)
        if slot.file is not None:
            return 200, {"done": True, "index": index}
        sending = {"url": self._url(slot, hook), "method": "PUT", "complete": self.direct_uploads}
        return 200, {"done": False, "index": index, **sending}

    def _stored(self, wanted: Announcement) -> bytes | None:
        files = (slot.file for slots in self._slots.values() for slot in slots if slot.file is not None)
        return next((file.content for file in files if _is_announced(wanted, file.digests)), None)

    def _url(self, slot: _Slot, hook: str) -> str:
        token = secrets.token_urlsafe(18)
        self._tokens[token] = slot
        return f"{hook}/content/{token}"


def _is_announced(wanted: Announcement, known: Digests) -> bool:
    return (
        (wanted.md5, wanted.challenge) == (known.md5, known.challenge)
        and wanted.sha256 in (None, known.sha256)
        and wanted.size_bytes in (None, known.size_bytes)
    )


def _attach(slot: _Slot, content: bytes) -> Answer:
    wanted = slot.announcement
    if wanted is None or not _is_announced(wanted, digests([content])):
        return _refusal(HTTPStatus.PRECONDITION_FAILED, "hash_mismatch")
    name, metadata = wanted.name or wanted.md5, json.loads(wanted.metadata)
    slot.file = StoredFile(name, content, wanted.mimetype, metadata)
    return 201, {}


def _complete(slots: list[_Slot], name: str, index: int) -> Answer:
    slot = slots[index] if index < len(slots) else None
    if slot is None:
        return _refusal(HTTPStatus.NOT_FOUND, "no_such_file")
    if slot.file is None:
        if slot.arrived is None:
            return _refusal(HTTPStatus.CONFLICT, "content_missing")
        arrived, slot.arrived = slot.arrived, None
        status, fields = _attach(slot, arrived)
        if slot.file is None:
            return status, fields
    return 200, {"done": True, "Map": _map(name, index, slot.file)}


def _map(name: str, index: int, file: StoredFile) -> Mapping[str, Any]:
    known = file.digests
    return FileRecord(
        action=JobId(""),
        property=name,
        index=index,
        name=file.name,
        size_bytes=known.size_bytes,
        mimetype=file.mimetype,
        md5=known.md5,
        sha256=known.sha256,
        store="default",
        uri="",
        metadata=strict_json.dumps(file.metadata),
    ).to_map()


def _refusal(status: int, code: str) -> Answer:
    return status, {"error": code, "message": code.replace("_", " ")}


class ContentExchange:
    """One request to a content URL: its bytes come and go in chunks, are slowed down, or cut."""

    def __init__(self, files: Files, handler: BaseHTTPRequestHandler) -> None:
        self._files = files
        self._handler = handler
        self._token = handler.path.rpartition("/")[2]
        self._cut_at = files.cuts.pop(0) if files.cuts else None

    def run(self) -> Answer | None:
        """Answer it here, or return what to answer."""
        if self._files.refusals:
            return self._files.refusals.pop(0)
        if self._handler.command == "PUT":
            length = self._handler.headers.get("Content-Length")
            if length is None:
                return _refusal(HTTPStatus.LENGTH_REQUIRED, "malformed")
            content = self._receive(int(length))
            return None if content is None else self._files.take(self._token, content)
        file = self._files.give(self._token)
        if file is None:
            return _refusal(HTTPStatus.FORBIDDEN, "bad_token")
        self._send(file)
        return None

    def _receive(self, size_bytes: int) -> bytes | None:
        content = bytearray()
        while len(content) < size_bytes:
            step = self._next(len(content), size_bytes)
            chunk = self._handler.rfile.read(step)
            if not chunk:  # it is cut here, or the client has gone
                self._hang_up()
                return None
            content += chunk
        return bytes(content)

    def _send(self, file: StoredFile) -> None:
        etag, size_bytes = f'"{file.digests.sha256}"', len(file.content)
        wanted = _RANGE.fullmatch(self._handler.headers.get("Range", ""))
        if self._handler.headers.get("If-Range", etag) != etag:
            wanted = None
        start = int(wanted[1]) if wanted else 0
        self._handler.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
        if wanted:
            self._handler.send_header("Content-Range", f"bytes {start}-{size_bytes - 1}/{size_bytes}")
        self._handler.send_header("Content-Length", str(size_bytes - start))
        self._handler.send_header("ETag", etag)
        self._handler.end_headers()
        sent, view = 0, memoryview(file.content)[start:]
        while sent < len(view):
            step = self._next(sent, len(view))
            if not step:
                self._hang_up()
                return
            self._handler.wfile.write(view[sent : sent + step])
            sent += step

    def _next(self, done: int, size_bytes: int) -> int:
        """Wait until more may come or go; return how much, 0: here it is cut."""
        step = min(size_bytes - done, _CHUNK_BYTES)
        if self._cut_at is not None:
            step = min(step, self._cut_at - done)
        if self._files.bytes_per_second:
            time.sleep(step / self._files.bytes_per_second)
        return step

    def _hang_up(self) -> None:
        self._handler.close_connection = True
        self._handler.connection.shutdown(socket.SHUT_RDWR)
