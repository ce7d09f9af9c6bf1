# SPDX-License-Identifier: Apache-2.0
"""Content digests: the published vectors."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from airflow_asyncaction import protocol
from airflow_asyncaction.protocol.digests import Digests, digests

VECTORS: list[dict[str, Any]] = json.loads((files(protocol) / "vectors/files.json").read_text())


@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(vector: dict[str, Any], chunk_bytes: int) -> None:
    hexes = vector["content_hex"]
    content = bytes(vector["size"]) if hexes is None else bytes.fromhex(hexes)
    chunks = (content[at : at + chunk_bytes] for at in range(0, len(content), chunk_bytes))
    assert digests(chunks) == Digests(vector["md5"], vector["challenge"], vector["sha256"], vector["size"])
