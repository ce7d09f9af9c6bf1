# SPDX-License-Identifier: Apache-2.0
"""Two API servers that write reports in batches: they neither lose a report nor count one twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_asyncaction.protocol.actions import StopReason
from airflow_asyncaction.protocol.lifecycle import Stop
from tests.integration.databases import Database, on_postgresql
from tests.integration.parallel_jobs import at_once, lines_of, report_counts, until_taken
from tests.integration.report_servers import ReportServer, report_servers
from tests.integration.signed_jobs import HookClient, NewJob, SignedJob, new_nonce

pytestmark = [pytest.mark.integration, on_postgresql]

REPORTERS = 32
REPORTS = 20


@pytest.fixture(scope="module")
def servers(database: Database) -> Iterator[list[ReportServer]]:
    with report_servers(2, database.url) as servers:
        yield servers


@pytest.fixture(scope="module")
def hooks(servers: list[ReportServer]) -> list[str]:
    return [server.hook for server in servers]


@pytest.fixture
def hook(hooks: list[str]) -> str:
    return hooks[0]


def test_no_line_of_parallel_reporters_at_two_servers_is_lost(
    database: Database, job: SignedJob, hooks: list[str], servers: list[ReportServer]
) -> None:
    def report(its: SignedJob, reporter: int) -> None:
        for number in range(REPORTS):
            nonce, lines = new_nonce(), [f"{reporter}:{2 * number}", f"{reporter}:{2 * number + 1}"]
            assert until_taken(lambda: its.report(nonce=nonce, logs=lines)).status == 200  # noqa: B023

    before = [server.count_written() for server in servers]
    at_once(job, REPORTERS, report, hooks=hooks)
    lines = lines_of(job)
    for reporter in range(REPORTERS):
        own = [line for line in lines if line.startswith(f"{reporter}:")]
        assert own == [f"{reporter}:{number}" for number in range(2 * REPORTS)]
    assert report_counts(database, job) == (REPORTERS * REPORTS, REPORTERS * REPORTS, len(lines))
    for server, count in zip(servers, before, strict=True):
        assert server.count_written() > count


def test_a_report_sent_to_two_servers_at_once_counts_once(
    database: Database, new_job: NewJob, hooks: list[str]
) -> None:
    job = new_job()
    for number in range(1, 11):
        nonce = new_nonce()
        answers = at_once(
            job,
            6,
            lambda its, _: until_taken(lambda: its.report(nonce=nonce, logs=["x"])),  # noqa: B023
            hooks=hooks,
        )
        assert {answer.status for answer in answers} == {200}
        assert report_counts(database, job) == (number, number, number)


def test_two_bodies_with_one_nonce_at_two_servers_are_one_report(
    database: Database, job: SignedJob, hooks: list[str]
) -> None:
    nonce = new_nonce()
    answers = at_once(
        job, 8, lambda its, n: until_taken(lambda: its.report(nonce=nonce, logs=[f"{n % 2}"])), hooks=hooks
    )
    assert sorted(answer.status for answer in answers) == [200] * 4 + [409] * 4
    assert report_counts(database, job)[1:] == (1, 1)


def test_jobs_that_report_to_both_servers_in_turn_are_served_fast(
    database: Database, new_job: NewJob, hooks: list[str], servers: list[ReportServer]
) -> None:
    jobs = [new_job() for _ in range(8)]
    before = sum(server.count_written() for server in servers)

    def send(job: SignedJob) -> None:
        with HookClient(hooks[0]) as one, HookClient(hooks[1]) as other:
            for number in range(20):
                client = one if number % 2 else other
                assert job.on(client).report(logs=[f"{number}"]).status == 200

    with ThreadPoolExecutor(len(jobs)) as threads:
        list(threads.map(send, jobs))
    for job in jobs:
        assert lines_of(job) == [str(number) for number in range(20)]
        assert report_counts(database, job) == (20, 20, 20)
    assert sum(server.count_written() for server in servers) == before + 20 * len(jobs)


def test_stop_at_one_server_reaches_a_job_that_reports_to_another(new_job: NewJob, hooks: list[str]) -> None:
    with HookClient(hooks[1]) as other:
        for _ in range(20):
            job = new_job()
            assert job.report().fields["action"] is None
            job.on(other).send_message(Stop(StopReason.REQUESTED))
            assert job.report().fields["action"] == "STOP"


def test_an_end_at_one_server_is_the_end_at_another(new_job: NewJob, hooks: list[str]) -> None:
    with HookClient(hooks[1]) as other:
        job = new_job()
        assert job.report(status="RUNNING").status == 200
        assert job.on(other).report(status="SUCCESS", results=1).status == 200
        assert job.report(status="RUNNING", results=2).fields["results"] == 1
        assert job.report(status="ERROR").error == (409, "already_ended")
