# SPDX-License-Identifier: Apache-2.0
"""Parsing of reports: valid, invalid and hostile bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction.exceptions import MalformedRequest, RequestTooLarge
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.reports import (
    Limits,
    LogLine,
    Report,
    ReportedStatus,
    cut_line,
    parse_report,
)

LIMITS = Limits(body_bytes=4096, report_log_lines=5, line_bytes=100)
FIELDS = ["status", "statusDetails", "results", "errorMessage", "errorName", "logs", "agent", "other"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
log_values = st.lists(
    st.text()
    | st.fixed_dictionaries(
        {"message": st.text()},
        optional={"level": json_values, "time": json_values, "stream": json_values},
    )
)
report_values = st.dictionaries(st.sampled_from(FIELDS), json_values) | st.fixed_dictionaries(
    {}, optional={"logs": log_values, "statusDetails": json_values, "results": json_values}
)


NO_NUMBERS = ["half", "", " 1", "1 ", "+1", "01", "0x1", "1_0", "\u0661", "1,5", "nan", "inf", "101", "-1"]


def parsed(**fields: Any) -> Report:
    return parse_report(json.dumps(fields).encode(), LIMITS)


@pytest.mark.parametrize(
    ("text", "number"), [("40", "40"), ("40.5", "40.5"), ("4e1", "40"), ("0", "0"), ("100.0", "100")]
)
def test_a_quoted_number_is_accepted(text: str, number: str) -> None:
    """Perl and PHP may send numbers this way. The rest of the report must not be rejected because of it."""
    report = parsed(statusDetails={"progress": text, "rows": text}, logs=[{"message": "m", "time": text}])
    assert report.status_details == f'{{"progress":{number},"rows":"{text}"}}'
    assert report.logs == (LogLine("m", time_ms=int(float(text))),)
    assert parsed(statusDetails=text).status_details == f'"{text}"'


@pytest.mark.parametrize("body", [b"", b"{}", b' {"unknown": 1}\n'])
def test_an_empty_report_is_a_heartbeat(body: bytes) -> None:
    assert parse_report(body, LIMITS).is_heartbeat


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, 1.5, "ü", [1, {"a": None}]])
def test_results_count_by_presence(value: Any) -> None:
    report = parsed(status="SUCCESS", results=value)
    assert report.results is not None
    assert json.loads(report.results) == value
    assert parsed(status="SUCCESS").results is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"status": "DONE"}, "status"),
        ({"status": []}, "status"),
        ({"statusDetails": 101}, "statusDetails"),
        ({"statusDetails": {"progress": -1}}, "statusDetails"),
        *(({"statusDetails": {"progress": text}}, "statusDetails") for text in NO_NUMBERS),
        ({"statusDetails": {"progress": "1e400"}}, "statusDetails"),
        ({"statusDetails": {"progress": "0" * 33}}, "statusDetails"),
        ({"logs": [{"message": "m", "time": "1e400"}]}, "logs"),
        ({"statusDetails": {"progress": True}}, "statusDetails"),
        ({"errorName": 1}, "errorName"),
        ({"errorMessage": {}}, "errorMessage"),
        ({"agent": "me"}, "agent"),
        ({"logs": "line"}, "logs"),
        ({"logs": [1]}, "logs"),
        ({"logs": [{"level": "INFO"}]}, "logs"),
        ({"logs": [{"message": "m", "level": 1}]}, "logs"),
        ({"logs": [{"message": "m", "time": "now"}]}, "logs"),
        ({"logs": [{"message": "m", "time": True}]}, "logs"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parsed(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"results": NaN}',
        b'{"results": -Infinity}',
        b'{"results": 1e999}',
        b'{"results": "\\ud800"}',
        b'{"a": 1, "a": 2}',
        b'{"results": {"\\ud800": 1}}',
        b'{"results": ' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"results": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"results": ' + b"1" * 4000 + b"1" * 400 + b"}",
    ],
)
def test_a_body_that_is_not_a_strict_json_object_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_report(body, Limits())


def test_limits() -> None:
    with pytest.raises(RequestTooLarge):
        parse_report(b" " * 4097, LIMITS)
    with pytest.raises(RequestTooLarge):
        parsed(logs=["x"] * 6)
    assert len(parsed(logs=["x"] * 5).logs) == 5


@pytest.mark.parametrize("text", ["x" * 101, "ü" * 51, "😀" * 26])
def test_a_long_line_is_cut_and_marked(text: str) -> None:
    (line,) = parsed(logs=[text]).logs
    kept, _, mark = line.message.partition(" [cut: ")
    assert text.startswith(kept)
    assert 0 < len(kept.encode()) < len(text.encode())
    assert 97 <= len(line.message.encode()) <= 100
    assert f"{len(text.encode())} bytes" in mark


@pytest.mark.parametrize("text", ["", "x" * 100, "ü" * 50])
def test_a_line_within_the_limit_is_kept(text: str) -> None:
    assert cut_line(text, 100) == text


def test_log_lines_in_both_spellings() -> None:
    lines = parsed(
        logs=["a\0b", {"message": "m", "level": "warning", "time": 1.5, "stream": "stderr", "more": 1}]
    ).logs
    assert lines == (LogLine("a�b"), LogLine("m", "WARNING", 1, "stderr"))
    assert all(LogLine.from_json(line.to_json()) == line for line in lines)


def test_a_status_and_its_words() -> None:
    report = parsed(status="ERROR", errorName="E", errorMessage="m", agent={"pid": 1})
    assert report.is_terminal
    assert (report.status, report.error_name, report.error_message) == (ReportedStatus.ERROR, "E", "m")
    assert report.agent == '{"pid":1}'


def accepted_or_refused(body: bytes) -> Report | None:
    try:
        report = parse_report(body, LIMITS)
    except (MalformedRequest, RequestTooLarge):
        return None
    for text in (report.status_details, report.results, report.agent):
        assert text is None or strict_json.dumps(strict_json.loads(text)) == text
    for line in report.logs:
        strict_json.loads(json.dumps(line.to_json(), allow_nan=False))
        assert "\0" not in line.message
        assert len(line.message.encode()) < LIMITS.line_bytes + 64
    return report


@given(st.binary())
def test_any_bytes_are_parsed_or_rejected(body: bytes) -> None:
    accepted_or_refused(body)


@given(report_values)
def test_any_json_object_is_parsed_or_rejected(fields: dict[str, Any]) -> None:
    accepted_or_refused(json.dumps(fields).encode())


@given(st.text().map(lambda text: '{"results":' + text + "}"))
def test_any_text_as_results_is_parsed_or_rejected(body: str) -> None:
    accepted_or_refused(body.encode("utf-8", "surrogatepass"))


def test_values_that_airflow_would_revive_stay_text() -> None:
    hostile = {"__classname__": "os.system"}
    pushed = strict_json.xcom_from_text(strict_json.dumps({"a": [hostile]}))
    assert pushed == {"a": [strict_json.dumps(hostile)]}
    assert strict_json.xcom_from_text(strict_json.dumps({"a": [0]})) == {"a": [0]}


def test_values_are_counted_before_they_are_parsed() -> None:
    limits = Limits(body_bytes=10_000_000)
    most = strict_json.MAX_VALUES - 2  # the body and the list are values as well
    assert parse_report(b'{"results":[' + b",".join([b"1"] * most) + b"]}", limits).results is not None
    for body in (b'{"results":[' + b",".join([b"1"] * (most + 1)) + b"]}", b"{" * most * 2, b"," * most * 2):
        with pytest.raises(MalformedRequest, match="more than 100000 values"):
            parse_report(body, limits)


def test_commas_and_brackets_in_text_are_no_values() -> None:
    line = '{"a", [1]}, \\' * 50
    body = json.dumps({"logs": [line] * 900}).encode()
    report = parse_report(body, Limits(report_log_lines=900))
    assert report.logs[-1].message == line


@pytest.mark.parametrize("end", ["", '"', "\\"])
def test_text_without_an_end_is_read_once(end: str) -> None:
    text = '"' + '\\"' * 1000 + end
    assert len(strict_json._STRING.findall(text)) == 1
