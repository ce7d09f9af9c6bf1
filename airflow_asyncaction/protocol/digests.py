# SPDX-License-Identifier: Apache-2.0
"""The three digests that name a content: md5, webda's challenge, sha256 (PROTOCOL.md, 3, upload)."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

_CHALLENGE_PREFIX = b"WEBDA"

# Where FIPS rules, md5 is refused unless it is for something else than security; Python 3.8 cannot say so.
_NOT_FOR_SECURITY: dict[str, Any] = {"usedforsecurity": False} if sys.version_info >= (3, 9) else {}


def new_md5(data: bytes = b"") -> hashlib._Hash:
    """Return an md5 that names contents, and guards nothing."""
    return hashlib.md5(data, **_NOT_FOR_SECURITY)  # noqa: S324


@dataclass(frozen=True)
class Digests:
    """Lower-case hex digests of one content, and its size.

    :param challenge: md5 of ``WEBDA`` + content: only who has the content knows it
    """

    md5: str
    challenge: str
    sha256: str
    size_bytes: int


class Digester:
    """Digests a content that comes in chunks."""

    def __init__(self) -> None:
        self._md5 = new_md5()
        self._challenge = new_md5(_CHALLENGE_PREFIX)
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0

    def update(self, chunk: bytes) -> None:
        """Take the next chunk."""
        for half in self.halves(chunk):
            half()

    def halves(self, chunk: bytes) -> tuple[Callable[[], None], Callable[[], None]]:
        """Take the next chunk in two halves of the work, for two threads; both must end before the next."""
        self._size_bytes += len(chunk)

        def first() -> None:
            self._md5.update(chunk)
            self._sha256.update(chunk)

        return first, partial(self._challenge.update, chunk)

    @property
    def size_bytes(self) -> int:
        """How much came up to now."""
        return self._size_bytes

    def result(self) -> Digests:
        """Return the digests of all chunks together."""
        return Digests(
            self._md5.hexdigest(), self._challenge.hexdigest(), self._sha256.hexdigest(), self._size_bytes
        )


def digests(chunks: Iterable[bytes]) -> Digests:
    """Digest a content given in chunks, in constant memory."""
    digester = Digester()
    for chunk in chunks:
        digester.update(chunk)
    return digester.result()
