# SPDX-License-Identifier: Apache-2.0
"""Limits of stored log lines, and of empty and refused reports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import LogLine, Report, ReportedStatus
from airflow_asyncaction.protocol.signing import Scheme
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.store import reports
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.models import action_table, report_table
from airflow_asyncaction.store.refused_reports import KEPT_BODY_BYTES, KEPT_REFUSALS
from airflow_asyncaction.store.reports import Envelope
from tests.integration.databases import Database, on_postgresql
from tests.integration.signed_jobs import NewJob, SignedJob, new_nonce

pytestmark = pytest.mark.integration

MAX_LOG_BYTES = 45_000
fresh_each_time = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


@pytest.fixture
def small_logs(database: Database) -> Actions:
    """Return a store that keeps few log lines of an action."""
    return Actions(database.store, replay_window=timedelta(minutes=10), max_log_bytes=MAX_LOG_BYTES)


def take(
    actions: Actions, job: SignedJob, report: Report, *, now: datetime | None = None, body: bytes = b""
) -> None:
    """Let the store take a report, without HTTP: for many."""
    envelope = Envelope(new_nonce(), Scheme.V2, body)
    outcome = actions.apply_report(job.info.job_id, lambda _: report, envelope, now or datetime.now(UTC))
    assert outcome.refused is None


def lines(first: int, count: int) -> tuple[LogLine, ...]:
    return tuple(LogLine(str(number)) for number in range(first, first + count))


def stored(database: Database, job: SignedJob) -> dict[str, Any]:
    """Return the action's row, and the number of lines that its reports hold."""
    with database.engine.connect() as connection:
        row = connection.execute(select(action_table).where(action_table.c.id == job.info.job_id)).one()
        held = connection.scalar(
            select(func.sum(report_table.c.log_count)).where(report_table.c.action_id == job.info.job_id)
        )
        held_bytes = connection.scalar(
            select(func.sum(func.length(report_table.c.logs))).where(
                report_table.c.action_id == job.info.job_id
            )
        )
    return {**row._mapping, "held": held or 0, "held_bytes": held_bytes or 0}


def all_lines(actions: Actions, job_id: JobId, after: int = 0) -> tuple[int, list[int]]:
    """Return the number of the first stored line after this one, and all lines from there."""
    kept: list[int] = []
    first: int | None = None
    while True:
        page = actions.read_for_task(job_id, lambda _: None, after_line=after, now=datetime.now(UTC)).log_page
        if page.lines:
            first = page.first_line if first is None else first
            assert page.first_line == first + len(kept)
        kept += [int(line.message) for line in page.lines]
        after = page.last_line
        if not page.has_more:
            return first or after + 1, kept


def test_the_newest_lines_are_kept_up_to_the_limit(
    database: Database, actions: Actions, job: SignedJob
) -> None:
    for first in range(1, 10_401, 1_000):
        take(actions, job, Report(logs=lines(first, 1_000)))
    row = stored(database, job)
    assert (row["log_lines"], row["log_lines_dropped"], row["held"]) == (11_000, 1_000, 10_000)
    assert all_lines(actions, job.info.job_id) == (1_001, list(range(1_001, 11_001)))


@pytest.mark.parametrize("max_log_lines", [0, 1, 7])
def test_a_report_may_be_dropped_in_part(
    database: Database, actions: Actions, new_job: NewJob, max_log_lines: int
) -> None:
    job = new_job(max_log_lines=max_log_lines)
    for first, count in ((1, 5), (6, 1), (7, 3), (10, 9), (19, 1)):
        take(actions, job, Report(logs=lines(first, count)))
        row = stored(database, job)
        end = first + count - 1
        kept = min(end, max_log_lines)
        assert (row["log_lines"], row["log_lines_dropped"]) == (end, end - kept)
        assert kept <= row["held"] < kept + 9  # freed by the report, which has up to nine
        assert all_lines(actions, job.info.job_id)[1] == list(range(end - kept + 1, end + 1))


def test_the_newest_lines_are_kept_up_to_the_size(
    database: Database, small_logs: Actions, job: SignedJob
) -> None:
    text = "x" * 1000
    for first in range(1, 101, 10):
        take(small_logs, job, Report(logs=tuple(LogLine(text) for _ in range(10))))
        row = stored(database, job)
        assert row["log_bytes"] == row["held_bytes"] <= MAX_LOG_BYTES
        assert row["log_lines_dropped"] == max(0, first + 9 - 40)
    assert stored(database, job)["held"] == 40
    page = small_logs.read_for_task(
        job.info.job_id, lambda _: None, after_line=0, now=datetime.now(UTC)
    ).log_page
    assert (page.first_line, len(page.lines)) == (61, 40)


def test_one_report_over_the_size_limit_is_kept(
    database: Database, small_logs: Actions, job: SignedJob
) -> None:
    for _ in range(2):
        take(small_logs, job, Report(logs=tuple(LogLine("x" * 1000) for _ in range(100))))
    row = stored(database, job)
    assert (row["log_lines_dropped"], row["held"]) == (100, 100)


def test_a_line_is_added_to_a_full_log_without_reading_others(
    database: Database, small_logs: Actions, job: SignedJob
) -> None:
    for _ in range(5):
        take(small_logs, job, Report(logs=tuple(LogLine("x" * 1000) for _ in range(10))))
    with statements_to(database) as statements:
        take(small_logs, job, Report(logs=(LogLine("y" * 1000),)))
    assert not [text for text in statements if re.search(r"SELECT[^;]*\blogs\b(?!\))", text)]
    assert len(statements) <= 8


def test_a_page_has_a_mebibyte_or_one_report(actions: Actions, job: SignedJob) -> None:
    large = tuple(LogLine("x" * 16_000) for _ in range(60))
    for _ in range(4):
        take(actions, job, Report(logs=large))
    for after in (0, 60, 120, 180):
        page = actions.read_for_task(
            job.info.job_id, lambda _: None, after_line=after, now=datetime.now(UTC)
        ).log_page
        assert (page.first_line, len(page.lines), page.has_more) == (after + 1, 60, after < 180)


@on_postgresql
def test_lines_that_are_freed_while_a_page_is_read_are_not_in_it(
    request: pytest.FixtureRequest, database: Database, small_logs: Actions, job: SignedJob
) -> None:
    def tens(count: int) -> None:
        for _ in range(count):
            take(small_logs, job, Report(logs=tuple(LogLine("x" * 1000) for _ in range(10))))

    def free_first(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "logs IS NOT NULL" in statement and to_free:
            tens(to_free.pop())

    event.listen(database.engine, "before_cursor_execute", free_first)
    request.addfinalizer(lambda: event.remove(database.engine, "before_cursor_execute", free_first))
    to_free: list[int] = []
    tens(4)
    for freed, first_line in ((2, 21), (4, 61)):
        to_free.append(freed)
        page = small_logs.read_for_task(
            job.info.job_id, lambda _: None, after_line=0, now=datetime.now(UTC)
        ).log_page
        assert page.first_line == first_line
        assert page.lines


def test_a_repeated_end_is_not_a_new_end(database: Database, job: SignedJob) -> None:
    for _ in range(3):
        assert job.report(status="SUCCESS").status == 200
    query = select(report_table.c.kind).where(report_table.c.action_id == job.info.job_id)
    with database.engine.connect() as connection:
        kinds = connection.scalars(query.order_by(report_table.c.id)).all()
    assert [kind for kind in kinds if kind in ("SUCCESS", "report")] == ["SUCCESS", "report", "report"]


@contextmanager
def statements_to(database: Database) -> Iterator[list[str]]:
    """Collect all that is sent to a database."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


@fresh_each_time
@given(
    counts=st.lists(st.integers(0, 400), max_size=12),
    limit=st.integers(0, 1_500),
    after=st.integers(0, 4_000),
)
def test_any_page_follows_the_requested_line(
    actions: Actions, new_job: NewJob, counts: list[int], limit: int, after: int
) -> None:
    job = new_job(max_log_lines=limit)
    total = 0
    for count in counts:
        take(actions, job, Report(logs=lines(total + 1, count)))
        total += count
    expected = list(range(max(after, total - limit) + 1, total + 1))
    first, kept = all_lines(actions, job.info.job_id, after)
    assert kept == expected
    assert not expected or first == expected[0]


def test_old_heartbeats_are_deleted_and_other_reports_kept(
    database: Database, actions: Actions, job: SignedJob
) -> None:
    now = datetime.now(UTC)
    long_ago = now - timedelta(minutes=11)
    take(actions, job, Report(logs=lines(1, 1)), now=long_ago)
    for _ in range(40):
        take(actions, job, Report(), now=long_ago)
    for _ in range(23):
        take(actions, job, Report(), now=now)
    query = select(report_table.c.kind, func.count()).where(report_table.c.action_id == job.info.job_id)
    with database.engine.connect() as connection:
        kinds = connection.execute(query.group_by(report_table.c.kind).order_by(report_table.c.kind)).all()
    assert [tuple(row) for row in kinds] == [("heartbeat", 23), ("report", 1)]
    assert stored(database, job)["report_count"] == 64


def test_of_old_reports_without_lines_the_newest_are_kept(
    monkeypatch: pytest.MonkeyPatch, database: Database, actions: Actions, job: SignedJob
) -> None:
    monkeypatch.setattr(reports, "KEPT_REPORTS", 5)
    now = datetime.now(UTC)
    long_ago = now - timedelta(minutes=11)
    take(actions, job, Report(logs=lines(1, 1)), now=long_ago)
    take(actions, job, Report(status=ReportedStatus.RUNNING), now=long_ago)
    for number in range(61):
        take(actions, job, Report(status_details=JsonText(str(number))), now=long_ago)
    take(actions, job, Report(status_details=JsonText("61")), now=now)
    query = select(report_table.c.log_count).where(report_table.c.action_id == job.info.job_id)
    with database.engine.connect() as connection:
        counts = connection.scalars(query.order_by(report_table.c.id)).all()
    assert counts == [1, 0, 0, 0, 0, 0]
    assert stored(database, job)["status_details"] == "61"


def test_refused_reports_are_truncated_and_limited(database: Database, job: SignedJob) -> None:
    job.report(status="SUCCESS")
    for number in range(KEPT_REFUSALS + 20):
        body = b'{"status": "ERROR", "errorName": "\xc3\xa9\\u0000' + b"x" * (number * 100) + b'"}'
        assert job.send("POST", "/status", body).error == (409, "already_ended")
    query = select(report_table.c.refused_with, report_table.c.body).where(
        report_table.c.action_id == job.info.job_id, report_table.c.refused_with.is_not(None)
    )
    with database.engine.connect() as connection:
        rows = connection.execute(query.order_by(report_table.c.id)).all()
    assert len(rows) == KEPT_REFUSALS
    assert {row.refused_with for row in rows} == {"already_ended"}
    assert rows[0].body == '{"status": "ERROR", "errorName": "é\\u0000"}'
    assert max(len(row.body.encode()) for row in rows) == KEPT_BODY_BYTES


def test_a_malformed_report_is_stored_as_received(database: Database, job: SignedJob) -> None:
    assert job.send("POST", "/status", b'{"status": "\x00\xff').error == (400, "malformed")
    query = select(report_table).where(report_table.c.action_id == job.info.job_id)
    with database.engine.connect() as connection:
        row = connection.execute(query).one()
    assert (row.refused_with, row.body) == ("malformed", '{"status": "\ufffd\ufffd')


def test_an_unsigned_request_is_not_stored(database: Database, job: SignedJob) -> None:
    headers = job.headers("POST", "/status", b"{}")
    assert job.client.send("POST", "/status", b"no json", headers).status == 401
    query = select(func.count()).where(report_table.c.action_id == job.info.job_id)
    with database.engine.connect() as connection:
        assert connection.scalar(query) == 0
