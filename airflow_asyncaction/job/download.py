# SPDX-License-Identifier: Apache-2.0
"""Download: writes the content of a file to a path. It is resumable, verified and atomic.

It performs no network I/O: jobs and hooks pass it the data that their HTTP clients receive.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, Callable

from airflow_asyncaction.exceptions import AsyncActionError
from airflow_asyncaction.protocol.compat import keyword_dataclass
from airflow_asyncaction.protocol.digests import new_md5

Progress = Callable[[int, int], None]
"""Called with the number of bytes transferred so far, and their total number."""

_PART_NAME_PREFIX_BYTES = 100  # file systems limit names, commonly to 255 bytes


@keyword_dataclass
class ExpectedContent:
    """Size and digests of a file's content, as returned by the server.

    :param md5: lower-case hex, like ``sha256``
    :param sha256: ``None`` if the server did not return it, like webda
    """

    name: str
    size_bytes: int
    md5: str
    sha256: str | None


class WrongRange(Exception):
    """The file store did not return the requested range."""


class Download:
    """Writes content to a file, and computes its digests as it arrives."""

    def __init__(
        self, output: BinaryIO, expected: ExpectedContent, on_progress: Progress | None = None
    ) -> None:
        self._output = output
        self._expected = expected
        self._on_progress = on_progress
        self._etag: str | None = None
        self._restart()

    def _restart(self) -> None:
        self._output.seek(0)
        self._output.truncate()
        self.received_bytes = 0
        self._md5 = new_md5()
        self._sha256 = hashlib.sha256()

    @property
    def is_complete(self) -> bool:
        """Whether all bytes of the content have arrived."""
        return self.received_bytes >= self._expected.size_bytes

    def request_headers(self) -> dict[str, str]:
        """Return the headers of the next request, which resumes where the last response ended."""
        if not self.received_bytes:
            return {}
        headers = {"Range": f"bytes={self.received_bytes}-"}
        if self._etag is not None and not self._etag.startswith("W/"):
            headers["If-Range"] = self._etag
        return headers

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Process the status and headers of a response. A response without a range restarts the download.

        :param headers: with names in lower case
        :raises WrongRange: it is not the requested range: send the request again
        """
        if status != HTTPStatus.PARTIAL_CONTENT:
            self._restart()
        elif not headers.get("content-range", "").startswith(f"bytes {self.received_bytes}-"):
            self._restart()
            raise WrongRange("The file store did not return the requested range")
        self._etag = headers.get("etag")

    def add(self, chunk: bytes) -> None:
        """Write the next bytes.

        :raises AsyncActionError: the content is larger than expected
        """
        self._output.write(chunk)
        self._md5.update(chunk)
        self._sha256.update(chunk)
        self.received_bytes += len(chunk)
        if self.received_bytes > self._expected.size_bytes:
            self.verify()
        if self._on_progress is not None:
            self._on_progress(self.received_bytes, self._expected.size_bytes)

    def verify(self) -> None:
        """Compare size and digests with the expected ones.

        :raises AsyncActionError: they differ
        """
        expected = self._expected
        received = (self.received_bytes, self._md5.hexdigest(), expected.sha256 and self._sha256.hexdigest())
        if received != (expected.size_bytes, expected.md5, expected.sha256):
            raise AsyncActionError(
                f"The content of {expected.name} does not match its size and digests."
                " It was changed in the file store or in transit"
            )


@contextlib.contextmanager
def downloading(
    path: Path, expected: ExpectedContent, on_progress: Progress | None = None
) -> Iterator[Download]:
    """Open a download to a path. An existing file is only replaced by the complete, verified content.

    :raises AsyncActionError: the content does not match its digests
    :raises OSError: the file cannot be written
    """
    prefix = path.name.encode()[:_PART_NAME_PREFIX_BYTES].decode(errors="ignore")
    part = path.parent / f".{prefix}.{secrets.token_hex(4)}.part"
    try:
        with part.open("xb") as output:
            download = Download(output, expected, on_progress)
            yield download
        download.verify()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
