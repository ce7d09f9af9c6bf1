# SPDX-License-Identifier: Apache-2.0
"""Masking of secrets in texts and JSON values: in each spelling, once, and at a bounded cost."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.lifecycle import Exit, Launched
from airflow_asyncaction.protocol.masking import MAX_CHARS, MAX_VALUES, NO_SECRETS, Masker, bounded, found_in
from airflow_asyncaction.protocol.reports import Limits, LogLine, cut_line, parse_report
from airflow_asyncaction.protocol.runner_messages import mask_message
from airflow_asyncaction.protocol.tasks import ActionSpec

PASSWORD = "p@ss wörd/+\"\\'&%"
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSj\n-----END KEY-----\n"
WORDS = st.text("ab.\\(", min_size=1, max_size=6)


@pytest.mark.parametrize(
    "shown",
    [
        PASSWORD,
        json.dumps(PASSWORD)[1:-1],
        json.dumps(PASSWORD, ensure_ascii=False)[1:-1],
        json.dumps(PASSWORD)[1:-1].replace("/", r"\/"),
        repr(PASSWORD)[1:-1],
        quote(PASSWORD),
        quote(PASSWORD, safe=""),
    ],
)
def test_each_spelling_of_a_secret_is_found(shown: str) -> None:
    masker = Masker([PASSWORD])
    assert masker.text(f"postgres://user:{shown}@host") == "postgres://user:***@host"
    assert masker.json({shown: [shown, 1, None, {"x": (f"={shown}",)}]}) == {
        "***": ["***", 1, None, {"x": ["=***"]}]
    }


def test_the_lines_of_a_secret_are_found_one_by_one() -> None:
    masker = Masker([PEM])
    assert masker.text(f"read {PEM}!") == "read ***!"
    assert masker.text(PEM.strip()) == "***"
    masked = [masker.text(line) for line in PEM.splitlines()]
    assert masked == ["-----BEGIN KEY-----", "***", "***", "-----END KEY-----"]
    assert Masker(['{\n  "type": "service_account"\n}\n']).text('"type": "service_account"') != "***"


def test_of_secrets_that_begin_alike_the_longer_one_is_replaced() -> None:
    for values in (["secret", "secret-2", "secret-22"], ["s" * 300, "s" * 299 + "x", "s" * 70]):
        masker = Masker(values)
        assert [masker.text(f"<{value}>") for value in values] == ["<***>"] * 3


@given(st.sets(WORDS, min_size=1, max_size=40), st.lists(WORDS | st.text(max_size=3)).map("".join))
def test_all_secrets_are_masked(values: set[str], text: str) -> None:
    masked = Masker(values).text(text)
    if not any(value in text for value in values):
        assert masked == text
    assert not any(value in part for value in values for part in masked.split("***"))


@given(
    st.recursive(
        st.none() | st.text("ab", max_size=9),
        lambda value: st.lists(value) | st.dictionaries(st.text("ab"), value),
    )
)
def test_a_json_value_keeps_its_shape(value: object) -> None:
    masked = Masker(["aaaa", "bbbb"]).json(value)
    text = json.dumps(masked)
    assert "aaaa" not in text
    assert "bbbb" not in text
    assert NO_SECRETS.json(value) == value
    assert _size(masked) == _size(value)


def _size(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_size, value.values()))
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


@pytest.mark.parametrize("kept", range(40, 60))
def test_the_rest_of_a_secret_in_a_cut_line_is_masked(kept: int) -> None:
    line = f"{'x' * 40}a-long-secret-of-the-task{'y' * 200}"
    cut = cut_line(line, kept + len(" [cut: the line has 265 bytes]"))
    masked = Masker(["a-long-secret-of-the-task"]).line(cut)
    assert masked.endswith(" [cut: the line has 265 bytes]")
    assert "a-lon" not in masked
    assert masked.startswith("x" * 40)
    assert Masker(["a-long-secret"]).line("x a-long-se [9 bytes truncated]") == "x *** [9 bytes truncated]"


def test_so_many_values_are_kept_the_shortest_first() -> None:
    assert len(bounded(f"value {number}" for number in range(2 * MAX_VALUES))) == MAX_VALUES
    assert bounded(["x" * MAX_CHARS, "short"]) == ["short"]
    assert bounded([]) == []


def test_values_are_found_in_any_escaping() -> None:
    text = json.dumps({"env": [PASSWORD]}) + PEM.splitlines()[1]
    assert found_in(text, ["another", PASSWORD, PEM, "en"]) == [PASSWORD, PEM, "en"]


def test_nothing_shows_the_values() -> None:
    assert "a-secret" not in repr(Masker(["a-secret"]))
    assert "a-secret" not in repr(ActionSpec(type="t", runner="local", secrets=("a-secret",)))


class CountedText(str):
    """Text that counts how often it is searched."""

    __slots__ = ()
    searches = 0

    def replace(self, *args: object, **kwargs: object) -> str:
        CountedText.searches += 1
        return self


def test_a_text_is_searched_once_for_all_short_secrets_and_once_for_each_long_one() -> None:
    long = {"x" * 100 + str(number) for number in range(10)}
    masker = Masker([*long, *(f"short {number}" for number in range(50))])
    masker.text(CountedText("text" * 100))
    assert CountedText.searches == len(long)


# --- in reports and words

LIMITS = Limits(line_bytes=100)
SECRET = "a-secret/of the task"


@pytest.mark.parametrize(
    "escaped", ["a-secret/of the task", r"a-secret\/of the task", r"\u0061-secret/of the task"]
)
def test_all_but_the_results_of_a_report_is_masked_however_it_is_escaped(escaped: str) -> None:
    body = (
        '{"status": "SUCCESS", "statusDetails": {"message": "S"}, "errorName": "S", "errorMessage": "of S",'
        ' "agent": {"S": "S"}, "results": {"S": ["S"]}, "logs": ["S", {"message": "<S>", "level": "info"}]}'
    ).replace("S", escaped)
    body = body.replace(f"{escaped}UCCE{escaped}{escaped}", "SUCCESS")
    report = parse_report(body.encode(), LIMITS, Masker([SECRET]))
    assert report.status_details == '{"message":"***"}'
    assert (report.error_name, report.error_message, report.agent) == ("***", "of ***", '{"***":"***"}')
    assert report.logs == (LogLine("***"), LogLine("<***>"))
    assert report.results == strict_json.dumps({SECRET: [SECRET]})


def test_a_report_is_masked_before_it_is_cut() -> None:
    line = "x" * 60 + SECRET + "y" * 100
    body = {"logs": [line], "errorMessage": "x" * (16 * 1024 - 5) + SECRET}
    report = parse_report(json.dumps(body).encode(), LIMITS, Masker([SECRET]))
    assert "a-s" not in report.logs[0].message
    assert report.error_message == "x" * (16 * 1024 - 5) + "***"


def test_runner_messages_are_masked() -> None:
    masker = Masker([SECRET, "ExitCode"])
    assert mask_message(Launched({"pod": SECRET, "pid": 1}), masker) == Launched({"pod": "***", "pid": 1})
    exit_ = Exit(code=1, reason="ExitCode", message=f"no {SECRET}", tail=("a", SECRET))
    assert mask_message(exit_, masker) == Exit(code=1, reason="ExitCode", message="no ***", tail=("a", "***"))
