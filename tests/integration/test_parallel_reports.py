# SPDX-License-Identifier: Apache-2.0
"""Concurrent reports: no line is lost or counted twice, and an action ends once."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from airflow_asyncaction.store.models import action_table
from tests.integration.databases import Database
from tests.integration.parallel_jobs import at_once, lines_of, report_counts, until_taken
from tests.integration.signed_jobs import NewJob, SignedJob, new_nonce

pytestmark = pytest.mark.integration


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


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
