# SPDX-License-Identifier: Apache-2.0
"""Responses to GET for the content of a file: all of it, or one range (RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

_RANGE = re.compile(r"bytes=(?:([0-9]{1,99})-([0-9]{1,99})?|-([0-9]{1,99}))")


class DescribedContent(Protocol):
    """Metadata of a file's content that the response depends on."""

    @property
    def size_bytes(self) -> int:
        """Size of the whole content."""

    @property
    def sha256(self) -> str:
        """Lower-case hex digest of the whole content."""

    @property
    def name(self) -> str:
        """Name of the file: a relative path."""

    @property
    def mimetype(self) -> str:
        """Media type, as announced."""


@dataclass(frozen=True)
class ContentResponse:
    """Status and headers of a response, and the part of the content that is its body.

    :param start: offset of this part in bytes
    :param length: size of this part in bytes
    """

    status: int
    headers: Mapping[str, str]
    start: int
    length: int

    @classmethod
    def of(cls, content: DescribedContent, headers: Mapping[str, str]) -> ContentResponse:
        """Return the response to a request: one range if it asks for one, else the whole content.

        :param headers: of the request, with lower-case names
        """
        size, etag = content.size_bytes, f'"{content.sha256}"'
        part = _part(headers.get("range", ""), size)
        if headers.get("if-range") not in (None, etag):
            part = None
        common = {
            "Content-Type": content.mimetype,
            "Content-Disposition": _attachment(content.name),
            "Content-Encoding": "identity",  # otherwise Airflow would compress it
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",  # untrusted content, served from Airflow's own origin
        }
        if part is None:
            return cls(200, {**common, "Content-Length": str(size)}, 0, size)
        start, stop = part
        if start >= stop:
            return cls(416, {**common, "Content-Range": f"bytes */{size}", "Content-Length": "0"}, 0, 0)
        range_header = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        return cls(206, {**common, **range_header, "Content-Length": str(stop - start)}, start, stop - start)


def _part(header: str, size: int) -> tuple[int, int] | None:
    """Parse a ``Range`` header into start and stop. The range is empty if it cannot be satisfied.

    Return ``None`` if the header is not a single range: the response is then the whole content.
    """
    match = _RANGE.fullmatch(header)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:  # the last N bytes
        return max(0, size - int(suffix)), size
    if last is not None and int(last) < int(first):
        return None
    return int(first), size if last is None else min(int(last) + 1, size)


def _attachment(name: str) -> str:
    """Return a ``Content-Disposition`` with which browsers save the file under the last part of its name."""
    return f"attachment; filename*=UTF-8''{quote(name.rpartition('/')[2], safe='')}"
