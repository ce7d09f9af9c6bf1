# SPDX-License-Identifier: Apache-2.0
"""Known actions: their cache is limited in number and size, and never outlives what was written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import LogLine, Report, ReportedStatus
from airflow_asyncaction.protocol.signing import Scheme
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.store import rows, secret
from airflow_asyncaction.store.known_actions import (
    MAX_ROW_CHARS,
    KnownAction,
    KnownActions,
    OrdinaryReport,
    Submission,
    judge,
)
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.store.report_statement import parameters
from airflow_asyncaction.store.reports import Envelope

ID = JobId("01890a5d-ac96-774b-bcce-b302099a8057")
NOW = datetime(2026, 1, 2, tzinfo=UTC)
ROW: Mapping[str, Any] = {
    **dict.fromkeys((column.name for column in rows.SELECT.selected_columns), None),
    "id": ID,
    "type": "etl",
    "attempt": 1,
    "secret": secret.encrypt("of the job"),
    "arguments": "{}",
    "completion": "exit",
    "require_report": False,
    "accept_v1": True,
    "max_log_lines": 10,
    "state": "RUNNING",
    "fenced": False,
    "log_lines": 3,
    "log_lines_dropped": 0,
    "report_count": 5,
    "refused_count": 0,
    "created_at": NOW,
    "updated_at": NOW,
    "revision": 7,
}


def known(**columns: Any) -> KnownAction:
    found = KnownAction.of({**ROW, **columns})
    assert found is not None
    return found


def judged(known: KnownAction, report: Report, *, max_log_bytes: int = 1000) -> OrdinaryReport | None:
    envelope = Envelope("n" * 16, Scheme.V2, b"{}")
    return judge(known, Submission(ID, lambda _: report, envelope, NOW), max_log_bytes=max_log_bytes)


def test_the_least_recently_used_actions_are_removed() -> None:
    cache, one = KnownActions(max_count=2), known()
    for name in ("a", "b"):
        cache.put(JobId(name), one)
    assert cache.find(JobId("a")) is one
    cache.put(JobId("c"), one)
    assert [cache.find(JobId(name)) is not None for name in "abc"] == [True, False, True]
    assert len(cache) == 2


def test_the_cache_is_limited_in_size() -> None:
    large = known(arguments='"' + "x" * 1000 + '"')
    cache = KnownActions(max_chars=3 * large.size)
    for number in range(10):
        cache.put(JobId(str(number)), large)
    assert len(cache) == 3
    assert cache.chars == 3 * large.size
    cache.put(JobId("9"), None)
    assert cache.chars == 2 * large.size
    assert cache.find(JobId("9")) is None


def test_a_large_row_is_not_kept() -> None:
    assert KnownAction.of({**ROW, "arguments": "x" * MAX_ROW_CHARS}) is None
    one = known()
    written = judged(one, Report(results=JsonText('"' + "x" * MAX_ROW_CHARS + '"')))
    assert written is not None
    assert one.after(written) is None


def test_a_row_is_followed_from_report_to_report() -> None:
    one = known()
    written = judged(one, Report(status=ReportedStatus.RUNNING, logs=(LogLine("a"), LogLine("b"))))
    assert written is not None
    after = one.after(written)
    assert after is not None
    assert (after.row.revision, after.row.report_count, after.row.log_lines) == (8, 6, 5)
    assert after.row.updated_at == NOW
    assert after.action == rows.to_action(after.row)
    assert after.credentials.accept_v1 is after.row.accept_v1 is False  # it was signed with v2


@pytest.mark.parametrize(
    ("columns", "report"),
    [
        ({}, Report(status=ReportedStatus.SUCCESS)),
        ({}, Report(status=ReportedStatus.ERROR)),
        ({"state": "SUCCESS", "ended_at": NOW}, Report()),
        ({"state": "QUEUED"}, Report()),
        ({"fenced": True}, Report()),
        ({"report_count": 63}, Report()),
        ({"log_lines": 10}, Report(logs=(LogLine("a"),))),
        ({"log_bytes": 990}, Report(logs=(LogLine("a"),))),
    ],
)
def test_whatever_needs_more_than_its_columns_is_not_ordinary(
    columns: dict[str, Any], report: Report
) -> None:
    assert judged(known(), Report()) is not None
    assert judged(known(**columns), report) is None


def test_an_array_is_passed_for_each_column_of_the_statement() -> None:
    one = known()
    written = judged(one, Report(logs=(LogLine("a"),)))
    assert written is not None
    arrays = parameters([written.row, written.row])
    assert {len(array) for array in arrays} == {2}
    assert [array[0] for array in arrays[:3]] == [ID, 7, NOW]
    assert set(written.row.changes) <= set(action_table.c.keys())
