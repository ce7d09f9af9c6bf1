# SPDX-License-Identifier: Apache-2.0
"""Moves one file: to the server's file store or from it, in constant memory, over outages, and verified."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict

from airflow_asyncaction.exceptions import AsyncActionError, ServerError
from airflow_asyncaction.job.content import CHUNK_BYTES, ContentOutage, Contents, Patience
from airflow_asyncaction.job.download import Download, ExpectedContent, Progress, WrongRange, downloading
from airflow_asyncaction.job.transport import BROKEN, Request, describe_error
from airflow_asyncaction.protocol.compat import keyword_dataclass
from airflow_asyncaction.protocol.digests import Digests, digests
from airflow_asyncaction.protocol.files import DEFAULT_MIMETYPE

Send = Callable[[Request], Dict[str, Any]]
"""Sends a request to the hook and returns the answer's object."""


@keyword_dataclass
class File:
    """A file of an action, as its job knows it.

    :param name: relative POSIX path
    :param md5: lower-case hex, as ``sha256``
    """

    name: str
    property: str
    index: int
    size_bytes: int
    mimetype: str
    md5: str
    sha256: str
    metadata: Mapping[str, Any]

    @classmethod
    def from_map(cls, property: str, fields: Mapping[str, Any]) -> File:  # noqa: A002
        """Read the ``Map`` of the server's answer."""
        return cls(
            name=fields["name"],
            property=property,
            index=fields["index"],
            size_bytes=fields["size"],
            mimetype=fields["mimetype"],
            md5=fields["hash"],
            sha256=fields["sha256"],
            metadata=fields["metadata"],
        )


@dataclass(frozen=True)
class Source:
    """Where the content of a file comes from: a path, or anything that can be opened again and again."""

    name: str
    open: Callable[[], BinaryIO]

    @classmethod
    def from_path(cls, path: Path) -> Source:
        """Return a local file as a source."""
        return cls(path.name, lambda: path.open("rb"))

    def chunks(self) -> Iterator[bytes]:
        """Yield the content."""
        with self.open() as content:
            while chunk := content.read(CHUNK_BYTES):
                yield chunk


@dataclass(frozen=True)
class Sent:
    """A file that is in the store.

    :param was_stored: its content was there already, and was not sent
    :param seconds: what it took, digests included
    """

    file: File
    was_stored: bool
    seconds: float


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched to a path."""

    file: File
    path: Path
    seconds: float


def send_file(
    send: Send,
    target: str,
    source: Source,
    *,
    contents: Contents,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    mimetype: str = DEFAULT_MIMETYPE,
    on_progress: Progress | None = None,
    patience_seconds: float = 330.0,
) -> Sent:
    """Announce a file, and send its content if the store has it not.

    :param target: path of the request that announces it; it ends in the property
    :param name: default: the source's
    :param patience_seconds: how long to try again over an outage
    :raises Superseded: a newer attempt took over: stop
    :raises ServerUnreachable: the outage lasted longer
    :raises ServerError: it was refused, or the source changed meanwhile
    :raises OSError: the source cannot be read
    """
    began_at = time.monotonic()
    known = digests(source.chunks())
    file = file_of(target.rpartition("/")[2], name or source.name, known, mimetype, metadata)
    upload = _Upload(send, target, source, contents, file, known, on_progress)
    patience = Patience(patience_seconds)
    while True:
        try:
            index, was_stored = upload.attempt()
        except ContentOutage as outage:
            patience.wait(outage)
        else:
            return Sent(replace(file, index=index), was_stored, time.monotonic() - began_at)


def file_of(
    property: str,  # noqa: A002
    name: str,
    known: Digests,
    mimetype: str,
    metadata: Mapping[str, Any] | None,
) -> File:
    """Return a file that is not attached yet."""
    return File(
        name=name,
        property=property,
        index=0,
        size_bytes=known.size_bytes,
        mimetype=mimetype,
        md5=known.md5,
        sha256=known.sha256,
        metadata=dict(metadata or {}),
    )


class _Changed(Exception):
    """The source is not what it was when it was digested."""


@dataclass(frozen=True)
class _Upload:
    send: Send
    target: str
    source: Source
    contents: Contents
    file: File
    known: Digests
    on_progress: Progress | None

    def attempt(self) -> tuple[int, bool]:
        """Announce, send and complete it; return its index, and whether its content was stored already.

        :raises ContentOutage: announce it anew
        """
        answer = self.send(Request("PUT", self.target, self._announcement()))
        index = int(answer["index"])
        if answer["done"]:
            return index, True
        try:
            self.contents.put(
                answer["url"], self._chunks(), size_bytes=self.file.size_bytes, method=answer["method"]
            )
            if answer.get("complete"):
                self._complete(index)
        except _Changed:
            raise self._changed() from None
        except ServerError as error:
            if error.status == HTTPStatus.PRECONDITION_FAILED and self._has_changed():
                raise self._changed() from None
            raise
        return index, False

    def _announcement(self) -> bytes:
        fields = {
            "hash": self.known.md5,
            "challenge": self.known.challenge,
            "sha256": self.known.sha256,
            "size": self.known.size_bytes,
            "name": self.file.name,
            "mimetype": self.file.mimetype,
            "metadata": self.file.metadata,
        }
        return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()

    def _complete(self, index: int) -> None:
        try:
            self.send(Request("POST", f"{self.target}/{index}/complete"))
        except ServerError as error:
            if error.code == "content_missing":
                raise ContentOutage(str(error), status=error.status, code=error.code) from None
            raise

    def _chunks(self) -> Iterator[bytes]:
        """Yield the content, as long as it is as long as it was when it was digested."""
        sent = 0
        try:
            for chunk in self.source.chunks():
                if sent + len(chunk) > self.file.size_bytes:
                    raise _Changed
                yield chunk
                sent += len(chunk)
                if self.on_progress is not None:
                    self.on_progress(sent, self.file.size_bytes)
        except OSError as error:  # as it is, it would be taken for one of the connection
            raise AsyncActionError(f"{self.source.name} cannot be read: {describe_error(error)}") from error
        if sent < self.file.size_bytes:
            raise _Changed

    def _has_changed(self) -> bool:
        return digests(self.source.chunks()) != self.known

    def _changed(self) -> ServerError:
        return ServerError(
            f"{self.source.name} changed while it was uploaded: upload it when nobody writes to it any more",
            status=HTTPStatus.PRECONDITION_FAILED,
            code="hash_mismatch",
        )


def fetch_file(
    send: Send,
    origin: str,
    choose: Callable[[File], Path],
    *,
    contents: Contents,
    on_progress: Progress | None = None,
    patience_seconds: float = 330.0,
) -> Fetched:
    """Fetch a file. It is at its path as a whole and verified, or what was there before is.

    :param origin: path of the request that asks for it: ``.../property/index``
    :param choose: says where it goes, once it is known; folders are made
    :param patience_seconds: how long to try again over an outage; anew after each byte that came
    :raises ServerError: it was refused, or the outage lasted longer
    :raises AsyncActionError: it is not what the server says of it
    :raises OSError: it cannot be written
    """
    began_at = time.monotonic()
    file, url = _ask(send, origin)
    target = choose(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    expected = ExpectedContent(name=file.name, size_bytes=file.size_bytes, md5=file.md5, sha256=file.sha256)
    patience = Patience(patience_seconds)
    with downloading(target, expected, on_progress) as download:
        while not _receive(download, contents, url, patience):
            _, url = _ask(send, origin)
    return Fetched(file, target, time.monotonic() - began_at)


def _ask(send: Send, origin: str) -> tuple[File, str]:
    answer = send(Request("GET", origin))
    return File.from_map(origin.split("/")[-2], answer["Map"]), answer["Location"]


def _receive(download: Download, contents: Contents, url: str, patience: Patience) -> bool:
    """Resume a download. Return whether it is complete; if not, it is time to try again."""
    before = download.received_bytes
    try:
        with contents.get(url, download.request_headers()) as response:
            _begin(download, response)
            while not download.is_complete:
                download.add(_read(response))
    except ContentOutage as outage:
        if download.received_bytes > before:
            patience.renew()
        patience.wait(outage)
        return False
    return True


def _begin(download: Download, response: http.client.HTTPResponse) -> None:
    headers = {name.lower(): value for name, value in response.getheaders()}
    try:
        download.begin(response.status, headers)
    except WrongRange as error:
        raise ContentOutage(str(error)) from None


def _read(response: http.client.HTTPResponse) -> bytes:
    """Return the next bytes, as soon as there are any.

    :raises ContentOutage: the connection broke
    """
    try:
        chunk = response.read1(CHUNK_BYTES)
    except BROKEN as error:
        raise ContentOutage(f"The connection broke: {describe_error(error)}") from None
    if not chunk:
        raise ContentOutage("The connection ended before the content did")
    return chunk
