# SPDX-License-Identifier: Apache-2.0
"""Answers to GET for the content of a file: all of it, or one range (RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

_RANGE = re.compile(r"bytes=(?:([0-9]{1,99})-([0-9]{1,99})?|-([0-9]{1,99}))")


class Described(Protocol):
    """A content, as far as its answer depends on it."""

    @property
    def size_bytes(self) -> int:
        """Of all of it."""

    @property
    def sha256(self) -> str:
        """Hex."""

    @property
    def name(self) -> str:
        """A relative path."""

    @property
    def mimetype(self) -> str:
        """As it was announced."""


@dataclass(frozen=True)
class ContentResponse:
    """Answer to a GET for the content of a file, or for a part of it.

    :param start: offset of the part in bytes; ``length`` is its size
    """

    status: int
    headers: Mapping[str, str]
    start: int
    length: int

    @classmethod
    def of(cls, content: Described, headers: Mapping[str, str]) -> ContentResponse:
        """Answer a request with these headers: with one range, if it asks for one, else with all.

        :param headers: with names in lower case
        """
        size, etag = content.size_bytes, f'"{content.sha256}"'
        part = _part(headers.get("range", ""), size)
        if headers.get("if-range") not in (None, etag):
            part = None
        common = {
            "Content-Type": content.mimetype,
            "Content-Disposition": _attachment(content.name),
            "Content-Encoding": "identity",  # else Airflow would compress it
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",  # it comes from Airflow's own origin, and from anybody
        }
        if part is None:
            return cls(200, {**common, "Content-Length": str(size)}, 0, size)
        start, stop = part
        if start >= stop:
            return cls(416, {**common, "Content-Range": f"bytes */{size}", "Content-Length": "0"}, 0, 0)
        range_header = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        return cls(206, {**common, **range_header, "Content-Length": str(stop - start)}, start, stop - start)


def _part(header: str, size: int) -> tuple[int, int] | None:
    """Return start and stop of a ``Range`` within ``size`` bytes; an empty range if it is not satisfiable.

    ``None`` if the header is not a single range: send the whole content.
    """
    asked = _RANGE.fullmatch(header)
    if asked is None:
        return None
    first, last, suffix = asked.groups()
    if suffix is not None:  # the last so many
        return max(0, size - int(suffix)), size
    if last is not None and int(last) < int(first):
        return None
    return int(first), size if last is None else min(int(last) + 1, size)


def _attachment(name: str) -> str:
    """Return the header with which a browser saves a file under the last part of its name."""
    return f"attachment; filename*=UTF-8''{quote(name.rpartition('/')[2], safe='')}"
