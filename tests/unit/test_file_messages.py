# SPDX-License-Identifier: Apache-2.0
"""File messages: announcements, references and descriptions are parsed or refused."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_asyncaction.exceptions import MalformedRequest
from airflow_asyncaction.protocol.digests import Digester, digests
from airflow_asyncaction.protocol.files import (
    DEFAULT_MIMETYPE,
    MAX_INDEX,
    Announcement,
    FileRecord,
    FileReference,
    checked_name,
    checked_property,
    is_file_name,
)
from airflow_asyncaction.protocol.human_readable import format_size, format_transfer
from airflow_asyncaction.protocol.strict_json import JsonText

MD5 = "0123456789abcdef" * 2
CHALLENGE = "fedcba9876543210" * 2
SHA256 = "0123456789abcdef" * 4
LEAST: dict[str, Any] = {"hash": MD5, "challenge": CHALLENGE}
RECORD = FileRecord(
    action="01890000-0000-7000-8000-000000000000",
    property="model",
    index=3,
    name="a/b.bin",
    size_bytes=5,
    mimetype="text/csv",
    md5=MD5,
    sha256=SHA256,
    store="lake",
    uri="s3://conn@bucket/key",
    metadata=JsonText('{"a":[1]}'),
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def refused_field(fields: dict[str, Any]) -> str:
    with pytest.raises(MalformedRequest) as raised:
        Announcement.from_json(fields)
    return raised.value.field


def test_only_the_digests_must_be_announced() -> None:
    assert Announcement.from_json(LEAST) == Announcement(md5=MD5, challenge=CHALLENGE)
    assert Announcement.from_json(LEAST).mimetype == DEFAULT_MIMETYPE


def test_an_announcement_is_read_whole() -> None:
    fields = {
        **LEAST,
        "sha256": SHA256,
        "size": 7,
        "name": "a/b",
        "mimetype": "text/csv",
        "metadata": {"é": 1},
    }
    assert Announcement.from_json({**fields, "unknown": 1}) == Announcement(
        md5=MD5,
        challenge=CHALLENGE,
        sha256=SHA256,
        size_bytes=7,
        name="a/b",
        mimetype="text/csv",
        metadata=JsonText('{"\\u00e9":1}'),
    )


def test_null_is_as_if_it_was_left_out() -> None:
    optional = ("sha256", "size", "name", "mimetype", "metadata")
    assert Announcement.from_json({**LEAST, **dict.fromkeys(optional)}) == Announcement.from_json(LEAST)


def test_digests_are_accepted_in_upper_case_and_kept_in_lower_case() -> None:
    found = Announcement.from_json(
        {"hash": MD5.upper(), "challenge": CHALLENGE.upper(), "sha256": SHA256.upper()}
    )
    assert (found.md5, found.challenge, found.sha256) == (MD5, CHALLENGE, SHA256)


@pytest.mark.parametrize("field", ["hash", "challenge", "sha256"])
@pytest.mark.parametrize(
    "value",
    ["", "0", MD5[1:], SHA256 + "0", "g" * 32, f"{MD5}\n", f" {MD5}", "\u0660" * 32, 0, True, [MD5], {}],
)
def test_what_is_no_digest_is_refused(field: str, value: object) -> None:
    assert refused_field({**LEAST, field: value}) == field


@pytest.mark.parametrize("field", ["hash", "challenge"])
def test_a_digest_that_is_missing_is_refused(field: str) -> None:
    assert refused_field({name: value for name, value in LEAST.items() if name != field}) == field


@pytest.mark.parametrize("size", [-1, 2**63, 1.0, math.inf, True, "1", [], {}])
def test_what_is_no_size_is_refused(size: object) -> None:
    assert refused_field({**LEAST, "size": size}) == "size"


@pytest.mark.parametrize("size", [0, 2**63 - 1])
def test_any_possible_size_is_accepted(size: int) -> None:
    assert Announcement.from_json({**LEAST, "size": size}).size_bytes == size


@pytest.mark.parametrize(
    "mimetype",
    [
        "text",
        "text/",
        "/csv",
        "text/csv\r\nX: y",
        "text/csv\n",
        "text/c sv",
        "text/" + "x" * 123,
        "té/x",
        1,
        ["a/b"],
    ],
)
def test_what_is_no_mimetype_is_refused(mimetype: object) -> None:
    assert refused_field({**LEAST, "mimetype": mimetype}) == "mimetype"


@pytest.mark.parametrize(
    "mimetype", ["text/csv", "text/plain; charset=utf-8", "application/vnd.a.b+json", "text/" + "x" * 122]
)
def test_a_mimetype_is_kept(mimetype: str) -> None:
    assert Announcement.from_json({**LEAST, "mimetype": mimetype}).mimetype == mimetype


@pytest.mark.parametrize("metadata", [[], "x", 1, True])
def test_metadata_must_be_an_object(metadata: object) -> None:
    assert refused_field({**LEAST, "metadata": metadata}) == "metadata"


@given(fields=st.dictionaries(st.sampled_from(["sha256", "size", "name", "mimetype"]), anything))
def test_any_announcement_is_accepted_or_malformed(fields: dict[str, Any]) -> None:
    try:
        found = Announcement.from_json({**LEAST, **fields})
    except MalformedRequest as refused:
        wrong = refused.field
    else:
        wrong = next(iter(fields), "")
        assert found.md5 == MD5
        assert found.name is None or is_file_name(found.name)
    assert wrong in fields or not fields


@pytest.mark.parametrize("name", ["a", "_", "A9_", "x" * 64])
def test_a_property_is_an_identifier(name: str) -> None:
    assert checked_property(name) == name


@pytest.mark.parametrize("name", ["", "9", "a-b", "a.b", "a/b", "a\n", "é", "x" * 65, "\0", None, 1, ["a"]])
def test_what_is_no_property_is_refused(name: object) -> None:
    with pytest.raises(MalformedRequest) as raised:
        checked_property(name)
    assert raised.value.field == "property"


@pytest.mark.parametrize("name", ["a", "a/b/c.txt", ".hidden", "..a", "a..", "é/漢字", " ", "x" * 255])
def test_a_name_is_a_relative_path(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../x", "a/../b", "a/./b", "./a"),
        *("a\\b", "\\", "..\\x", "\0", "a\0b", "a\nb", "a\x7fb", "a\x85b", "\ud800", "a\udfff", "x" * 256),
        *(None, 1, True, ["a"], {}),
    ],
    ids=ascii,
)
def test_what_is_no_relative_path_is_refused(name: object) -> None:
    with pytest.raises(MalformedRequest) as raised:
        checked_name(name)
    assert raised.value.field == "name"


@given(name=st.text(st.sampled_from("ab./\\\0\n:~")) | st.text())
@example(name="a/..")
def test_a_name_that_is_taken_stays_below_its_folder(name: str) -> None:
    if is_file_name(name):
        path = PurePosixPath(name)
        assert not path.is_absolute()
        assert not {"", ".", ".."} & set(name.split("/"))
        assert str(path) == name
        assert ".." not in PureWindowsPath(name).parts


def test_a_reference_matches_its_record() -> None:
    said = json.loads(json.dumps(RECORD.to_json()))
    assert FileReference.from_json(said) == FileReference(RECORD.action, "model", 3, SHA256)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"action": None}, "file"),
        ({"action": 1}, "file"),
        ({"index": None}, "file"),
        ({"index": True}, "file"),
        ({"index": -1}, "file"),
        ({"index": MAX_INDEX + 1}, "file"),
        ({"index": "0"}, "file"),
        ({"property": "../x"}, "property"),
        ({"sha256": MD5}, "sha256"),
        ({"sha256": None}, "sha256"),
    ],
)
def test_what_is_no_reference_is_refused(change: dict[str, object], field: str) -> None:
    with pytest.raises(MalformedRequest) as raised:
        FileReference.from_json({**RECORD.to_json(), **change})
    assert raised.value.field == field


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_a_reference_must_be_an_object(value: object) -> None:
    with pytest.raises(MalformedRequest):
        FileReference.from_json(value)


def test_a_record_says_all_to_a_task_and_to_a_job_not_where_it_is_kept() -> None:
    assert RECORD.to_json() == {
        "name": "a/b.bin",
        "property": "model",
        "index": 3,
        "size": 5,
        "mimetype": "text/csv",
        "md5": MD5,
        "sha256": SHA256,
        "store": "lake",
        "uri": "s3://conn@bucket/key",
        "metadata": {"a": [1]},
        "action": RECORD.action,
    }
    assert RECORD.to_map() == {
        "name": "a/b.bin",
        "size": 5,
        "mimetype": "text/csv",
        "hash": MD5,
        "sha256": SHA256,
        "metadata": {"a": [1]},
        "index": 3,
    }


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (12_900_000, "12.3 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (2000 * 1024**4, "2000.0 TiB"),
    ],
)
def test_a_size_has_a_unit(size_bytes: int, said: str) -> None:
    assert format_size(size_bytes) == said


def test_a_transfer_has_a_rate() -> None:
    assert format_transfer(12_900_000, 0.4) == "12.3 MiB in 0.40 s, 30.8 MiB/s"
    assert format_transfer(0, 0.0) == "0 B in 0.00 s, 0.0 MiB/s"


@given(chunks=st.lists(st.binary(max_size=50), max_size=8))
def test_chunks_are_digested_as_one_content(chunks: list[bytes]) -> None:
    content = b"".join(chunks)
    found = digests(chunks)
    assert found == digests([content])
    assert found.size_bytes == len(content)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert found.challenge == hashlib.md5(b"WEBDA" + content, usedforsecurity=False).hexdigest()


def test_the_halves_of_a_chunk_may_come_in_any_order() -> None:
    digester = Digester()
    for step in reversed(digester.update_steps(b"one")):
        step()
    for step in digester.update_steps(b"two"):
        step()
    assert digester.size_bytes == 6
    assert digester.result() == digests([b"onetwo"])
