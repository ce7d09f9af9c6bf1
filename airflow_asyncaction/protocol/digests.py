# SPDX-License-Identifier: Apache-2.0
"""Digests of file contents: MD5, webda's challenge and SHA-256 (PROTOCOL.md, section 3, upload)."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

_CHALLENGE_PREFIX = b"WEBDA"

# In FIPS mode, MD5 is only available with this argument, which Python 3.8 does not have.
_NOT_FOR_SECURITY: dict[str, Any] = {"usedforsecurity": False} if sys.version_info >= (3, 9) else {}


def new_md5(data: bytes = b"") -> hashlib._Hash:
    """Return an MD5 hash, in FIPS mode as well: the wire contract requires it."""
    return hashlib.md5(data, **_NOT_FOR_SECURITY)  # noqa: S324


@dataclass(frozen=True)
class Digests:
    """Lower-case hex digests of a file's content, and its size.

    :param challenge: MD5 of ``WEBDA`` followed by the content, which proves possession of the content;
        ``None`` if an object store computed the digests
    """

    md5: str
    challenge: str | None
    sha256: str
    size_bytes: int


class Digester:
    """Computes the digests of content that arrives in chunks."""

    def __init__(self) -> None:
        self._md5 = new_md5()
        self._challenge = new_md5(_CHALLENGE_PREFIX)
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0

    def update(self, chunk: bytes) -> None:
        """Add the next chunk."""
        for step in self.update_steps(chunk):
            step()

    def update_steps(self, chunk: bytes) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return two functions that together add a chunk. They may run in parallel."""
        self._size_bytes += len(chunk)

        def first() -> None:
            self._md5.update(chunk)
            self._sha256.update(chunk)

        return first, partial(self._challenge.update, chunk)

    @property
    def size_bytes(self) -> int:
        """Size of all chunks so far."""
        return self._size_bytes

    def result(self) -> Digests:
        """Return the digests of all chunks."""
        return Digests(
            self._md5.hexdigest(), self._challenge.hexdigest(), self._sha256.hexdigest(), self._size_bytes
        )


def digests(chunks: Iterable[bytes]) -> Digests:
    """Compute the digests of content in constant memory."""
    digester = Digester()
    for chunk in chunks:
        digester.update(chunk)
    return digester.result()
