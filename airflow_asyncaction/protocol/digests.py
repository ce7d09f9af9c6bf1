# SPDX-License-Identifier: Apache-2.0
"""The three digests that name a content: md5, webda's challenge, sha256 (PROTOCOL.md, 3, upload)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

_CHALLENGE_PREFIX = b"WEBDA"


@dataclass(frozen=True)
class Digests:
    """Lower-case hex digests of one content, and its size.

    :param challenge: md5 of ``WEBDA`` + content: only who has the content knows it
    """

    md5: str
    challenge: str
    sha256: str
    size_bytes: int


def digests(chunks: Iterable[bytes]) -> Digests:
    """Digest a content given in chunks, in constant memory."""
    md5 = hashlib.md5(usedforsecurity=False)
    challenge = hashlib.md5(_CHALLENGE_PREFIX, usedforsecurity=False)
    sha256 = hashlib.sha256()
    size = 0
    for chunk in chunks:
        md5.update(chunk)
        challenge.update(chunk)
        sha256.update(chunk)
        size += len(chunk)
    return Digests(md5.hexdigest(), challenge.hexdigest(), sha256.hexdigest(), size)
