# SPDX-License-Identifier: Apache-2.0
"""File transfer: uploads or downloads one file in constant memory, with retries and verification."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict

from airflow_asyncaction.exceptions import AsyncActionError, ServerError
from airflow_asyncaction.job.content_client import CHUNK_BYTES, ContentClient, ContentOutage, Patience
from airflow_asyncaction.job.download import Download, ExpectedContent, Progress, WrongRange, downloading
from airflow_asyncaction.job.transport import BROKEN, Request, describe_error
from airflow_asyncaction.protocol.compat import keyword_dataclass
from airflow_asyncaction.protocol.digests import Digests, digests
from airflow_asyncaction.protocol.files import DEFAULT_MIMETYPE

Send = Callable[[Request], Dict[str, Any]]
"""Sends a request to the hook and returns the response object."""


@keyword_dataclass
class File:
    """A file of an action, as its job sees it.

    :param name: relative POSIX path
    :param md5: lower-case hex, like ``sha256``
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
        """Parse the ``Map`` object of a response."""
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
    """Source of an upload. It can be opened repeatedly.

    :param name: relative POSIX path under which the file is attached
    """

    name: str
    open: Callable[[], BinaryIO]

    def chunks(self) -> Iterator[bytes]:
        """Yield the content in chunks."""
        with self.open() as content:
            while chunk := content.read(CHUNK_BYTES):
                yield chunk


def send_file(
    send: Send,
    target: str,
    source: Source,
    *,
    contents: ContentClient,
    metadata: Mapping[str, Any] | None = None,
    mimetype: str = DEFAULT_MIMETYPE,
    on_progress: Progress | None = None,
    patience_seconds: float = 330.0,
) -> File:
    """Announce a file, and send its content unless it is already stored.

    :param target: path of the announcement, which ends with the property
    :param patience_seconds: how long to retry during an outage
    :raises Superseded: a newer attempt took over: stop
    :raises ServerUnreachable: the outage lasted longer
    :raises ServerError: the upload was refused, or the source changed during it
    :raises OSError: the source cannot be read before the transfer
    """
    announced = digests(source.chunks())
    file = describe_source(target.rpartition("/")[2], source, announced, mimetype, metadata)
    upload = _Upload(send, target, source, contents, file, announced, on_progress)
    patience = Patience(patience_seconds)
    while True:
        try:
            return replace(file, index=upload.attempt())
        except ContentOutage as outage:
            patience.wait(outage)


def describe_source(
    property: str,  # noqa: A002
    source: Source,
    computed: Digests,
    mimetype: str,
    metadata: Mapping[str, Any] | None,
) -> File:
    """Return the description of a file that is not attached yet."""
    return File(
        name=source.name,
        property=property,
        index=0,
        size_bytes=computed.size_bytes,
        mimetype=mimetype,
        md5=computed.md5,
        sha256=computed.sha256,
        metadata=dict(metadata or {}),
    )


class _Changed(Exception):
    """The source has changed since its digests were computed."""


@dataclass(frozen=True)
class _Upload:
    send: Send
    target: str
    source: Source
    contents: ContentClient
    file: File
    announced: Digests
    on_progress: Progress | None

    def attempt(self) -> int:
        """Announce, send and complete the file. Return its index.

        :raises ContentOutage: a temporary error: announce the file again
        """
        response = self.send(Request("PUT", self.target, self._announcement()))
        index = int(response["index"])
        if response["done"]:  # the content is already stored
            return index
        try:
            self.contents.put(
                response["url"], self._chunks(), size_bytes=self.file.size_bytes, method=response["method"]
            )
            if response.get("complete"):
                self._complete(index)
        except _Changed:
            raise self._changed() from None
        except ServerError as error:
            if error.status == HTTPStatus.PRECONDITION_FAILED and self._has_changed():
                raise self._changed() from None
            raise
        return index

    def _announcement(self) -> bytes:
        fields = {
            "hash": self.announced.md5,
            "challenge": self.announced.challenge,
            "sha256": self.announced.sha256,
            "size": self.announced.size_bytes,
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
        """Yield the content, and check that its size has not changed since the digests were computed."""
        sent = 0
        try:
            for chunk in self.source.chunks():
                if sent + len(chunk) > self.file.size_bytes:
                    raise _Changed
                yield chunk
                sent += len(chunk)
                if self.on_progress is not None:
                    self.on_progress(sent, self.file.size_bytes)
        except OSError as error:  # urllib would take it for a connection error
            raise AsyncActionError(
                f"The file {self.source.name} cannot be read: {describe_error(error)}"
            ) from error
        if sent < self.file.size_bytes:
            raise _Changed

    def _has_changed(self) -> bool:
        return digests(self.source.chunks()) != self.announced

    def _changed(self) -> ServerError:
        return ServerError(
            f"The file {self.source.name} changed during the upload. Upload it when it is complete",
            status=HTTPStatus.PRECONDITION_FAILED,
            code="hash_mismatch",
        )


def fetch_file(
    send: Send,
    origin: str,
    choose: Callable[[File], Path],
    *,
    contents: ContentClient,
    on_progress: Progress | None = None,
    patience_seconds: float = 330.0,
) -> tuple[File, Path]:
    """Download a file, and return it with its path. An existing file is only replaced on success.

    :param origin: path of the request for its URL: ``.../property/index``
    :param choose: returns the path of the file from its description; folders are created
    :param patience_seconds: how long to retry during an outage; starts over after each received byte
    :raises ServerError: the download was refused, or the outage lasted longer
    :raises AsyncActionError: the content does not match its size and digests
    :raises OSError: the file cannot be written
    """
    response = send(Request("GET", origin))
    file = File.from_map(origin.split("/")[-2], response["Map"])
    target = choose(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    expected = ExpectedContent(name=file.name, size_bytes=file.size_bytes, md5=file.md5, sha256=file.sha256)
    patience = Patience(patience_seconds)
    with downloading(target, expected, on_progress) as download:
        while not _receive(download, contents, response["Location"], patience):
            response = send(Request("GET", origin))
    return file, target


def _receive(download: Download, contents: ContentClient, url: str, patience: Patience) -> bool:
    """Start or resume a download. Return whether it is complete. Otherwise, wait before returning."""
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
    """Return the next bytes as soon as they arrive.

    :raises ContentOutage: the connection broke
    """
    try:
        chunk = response.read1(CHUNK_BYTES)
    except BROKEN as error:
        raise ContentOutage(f"The connection broke: {describe_error(error)}") from None
    if not chunk:
        raise ContentOutage("The connection was closed before the whole content was received")
    return chunk
