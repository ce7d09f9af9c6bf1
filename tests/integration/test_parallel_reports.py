# SPDX-License-Identifier: Apache-2.0
"""Concurrent reports: no line is lost or counted twice, and an action ends once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from sqlalchemy import func, select

from airflow_asyncaction.store.models import action_table, report_table
from tests.integration.databases import Database
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob, new_nonce

pytestmark = pytest.mark.integration

T = TypeVar("T")


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


def at_once(job: SignedJob, count: int, do: Callable[[SignedJob, int], T]) -> list[T]:
    """Call a function in ``count`` threads at the same moment, each with its own connection."""
    barrier = threading.Barrier(count)

    def work(number: int) -> T:
        with HookClient(job.client.hook) as client:
            barrier.wait()
            return do(job.on(client), number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def until_taken(send: Callable[[], Answer]) -> Answer:
    """Resend while the server is unavailable, as every client must."""
    while (answer := send()).status == 503:
        assert answer.headers["retry-after"]
    return answer


def report_counts(database: Database, job: SignedJob) -> tuple[int, int, int]:
    """Return the rows of reports, the number that the action counts, and that of its log lines."""
    ours = report_table.c.action_id == job.info.job_id
    counts = select(action_table.c.report_count, action_table.c.log_lines).where(
        action_table.c.id == job.info.job_id
    )
    with database.engine.connect() as connection:
        stored = connection.scalar(select(func.count()).select_from(report_table).where(ours))
        counted, lines = connection.execute(counts).one()
    return stored or 0, counted, lines


def lines_of(job: SignedJob) -> list[str]:
    """Return all log lines, page by page; their numbers must have no gap."""
    lines: list[str] = []
    while True:
        view = job.view(after=len(lines))
        assert view.first_line == len(lines) + 1
        lines += [line.message for line in view.logs]
        if not view.has_more_logs:
            return lines


@pytest.mark.parametrize(
    ("database", "reporters", "reports"),
    [("sqlite", 4, 10), ("postgresql", 32, 50)],
    indirect=["database"],
    scope="session",
)
def test_no_line_of_parallel_reporters_is_lost(
    database: Database, job: SignedJob, reporters: int, reports: int
) -> None:
    def report(its: SignedJob, reporter: int) -> None:
        for number in range(reports):
            lines = [f"{reporter}:{3 * number + line}" for line in range(3)]
            nonce = new_nonce()
            assert until_taken(lambda: its.report(nonce=nonce, logs=lines)).status == 200  # noqa: B023

    at_once(job, reporters, report)
    lines = lines_of(job)
    assert len(lines) == reporters * reports * 3
    for reporter in range(reporters):
        own = [line for line in lines if line.startswith(f"{reporter}:")]
        assert own == [f"{reporter}:{number}" for number in range(3 * reports)]
    assert report_counts(database, job) == (reporters * reports, reporters * reports, len(lines))


def test_a_report_sent_concurrently_counts_once(database: Database, job: SignedJob) -> None:
    nonce = new_nonce()
    answers = at_once(
        job, 20, lambda its, _: until_taken(lambda: its.report(nonce=nonce, status="RUNNING", logs=["one"]))
    )
    assert {answer.status for answer in answers} == {200}
    assert report_counts(database, job) == (1, 1, 1)
    assert lines_of(job) == ["one"]


def test_concurrent_bodies_with_one_nonce_are_one_report(database: Database, job: SignedJob) -> None:
    nonce = new_nonce()
    answers = at_once(
        job, 8, lambda its, number: until_taken(lambda: its.report(nonce=nonce, logs=[f"{number % 2}"]))
    )
    assert sorted(answer.status for answer in answers) == [200] * 4 + [409] * 4
    assert report_counts(database, job)[1:] == (1, 1)


def test_one_of_two_concurrent_ends_wins(job: SignedJob) -> None:
    statuses = ("SUCCESS", "ERROR")
    answers = at_once(
        job,
        8,
        lambda its, number: until_taken(lambda: its.report(status=statuses[number % 2], results=number % 2)),
    )
    winner = job.send("GET", "/job").fields
    for number, answer in enumerate(answers):
        if statuses[number % 2] == winner["status"]:
            assert answer.status == 200
        else:
            assert answer.error == (409, "already_ended")
    assert winner["results"] == statuses.index(winner["status"])


@pytest.mark.parametrize("database", ["postgresql"], indirect=True, scope="session")
def test_actions_do_not_wait_for_each_other(database: Database, new_job: NewJob) -> None:
    locked, free = new_job(), new_job()
    with database.engine.begin() as connection:
        connection.execute(
            select(action_table.c.id).where(action_table.c.id == locked.info.job_id).with_for_update()
        )
        assert free.report(status="SUCCESS").status == 200
