# SPDX-License-Identifier: Apache-2.0
"""Job client while the server is unreachable, slow, has a wrong clock, or is another server."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

from airflow_asyncaction.job import Job, ServerError, ServerUnreachable, Timing, open_job
from airflow_asyncaction.job.outgoing_reports import MAX_LOG_LINES
from airflow_asyncaction.job.transport import Backoff
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.testing import JobServer, TestedJob
from tests.unit.tested_jobs import sent_logs


def test_outage_of_three_seconds_loses_nothing(server: JobServer, tested: TestedJob, job: Job) -> None:
    job.log("before")
    tested.wait_until(lambda tested: tested.logs)
    server.go_away()
    back = threading.Timer(3, server.come_back)
    back.start()
    for number in range(50):
        job.log(f"during {number}")
        time.sleep(0.01)
    job.result("late but there")
    back.join()
    assert sent_logs(tested) == ["before", *(f"during {number}" for number in range(50))]
    assert tested.action.state is State.SUCCESS


def test_a_paused_server_is_waited_for(server: JobServer, tested: TestedJob, job: Job) -> None:
    server.pause(retry_after_seconds=1)
    started = time.monotonic()
    threading.Timer(0.1, server.resume).start()
    job.result(1)
    assert time.monotonic() - started >= 0.9  # no sooner than Retry-After says
    assert tested.action.state is State.SUCCESS


def test_lost_answers_repeat_nothing(server: JobServer, tested: TestedJob, job: Job) -> None:
    job.flush()
    server.lose_responses(3)
    job.log("once")
    job.result(1)
    assert sent_logs(tested) == ["once"]
    assert tested.action.state is State.SUCCESS
    again = [request for request in tested.requests if b"once" in request.body]
    assert len(again) == 4
    assert len({(request.claim.nonce, request.body) for request in again}) == 1
    times = [request.claim.time_ms for request in again]
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_a_server_that_stays_unreachable_is_given_up(server: JobServer, tested: TestedJob) -> None:
    timing = Timing(report_patience_seconds=0.3, exit_patience_seconds=0.1)
    with Job(tested.info, timing=timing) as job:
        server.go_away()
        with pytest.raises(ServerUnreachable) as caught:
            job.result(1)
    assert caught.value.status == 0


def test_an_end_that_was_given_up_is_sent_when_the_server_returns(
    server: JobServer, tested: TestedJob
) -> None:
    with Job(tested.info, timing=Timing(report_patience_seconds=0.1, flush_seconds=0.02)) as job:
        server.go_away()
        with pytest.raises(ServerUnreachable):
            job.result(1)
        server.come_back()
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, "1")


def test_while_the_server_is_away_the_oldest_lines_go(server: JobServer, tested: TestedJob, job: Job) -> None:
    job.flush()
    server.go_away()
    total = MAX_LOG_LINES * 2
    for number in range(total):
        job.log(str(number))
    server.come_back()
    job.result(1)
    messages = sent_logs(tested)
    assert messages[-1] == str(total - 1)
    numbers = [int(message) for message in messages if message.isdigit()]
    assert MAX_LOG_LINES <= len(numbers) <= MAX_LOG_LINES + 1000  # one report may have been on its way
    assert numbers == sorted(numbers)
    (said,) = (message for message in messages if not message.isdigit())
    assert said.startswith(f"[{total - len(numbers)} lines were dropped here")


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_wrong_clock_is_corrected(server: JobServer, tested: TestedJob, hours: int) -> None:
    server.clock_offset = timedelta(hours=hours)
    with Job(tested.info) as job:
        job.result(1)
    assert tested.action.state is State.SUCCESS


def test_a_wrong_secret_is_an_error_that_tells_no_secret(server: JobServer) -> None:
    wrong, right = server.new_job(), server.new_job()
    environ = {**right.environ, "JOB_SECRET_KEY": wrong.info.secret_key}
    with open_job(environ) as job, pytest.raises(ServerError) as caught:
        job.result(1)
    assert (caught.value.status, caught.value.code) == (401, "bad_signature")
    for shown in (repr(caught.value), repr(job), repr(vars(job)), str(caught.value)):
        assert wrong.info.secret_key not in shown


SERVER_ERRORS = [500, 501, 502, 503, 504, 505, 507, 511, 520, 599]


@pytest.mark.parametrize("status", [408, 429, *SERVER_ERRORS])
def test_an_end_is_sent_again_after_any_answer_that_may_pass(
    server: JobServer, tested: TestedJob, job: Job, status: int
) -> None:
    job.flush()
    server.fail(1, status)
    job.result({"rows": 1})
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, '{"rows":1}')


@pytest.mark.parametrize(("status", "code"), [(404, "no_such_route"), (507, "no_space"), (418, "")])
def test_an_answer_that_will_not_pass_is_an_error_at_once(
    server: JobServer, tested: TestedJob, status: int, code: str
) -> None:
    with Job(tested.info, timing=Timing(heartbeat_seconds=600, flush_seconds=600)) as job:
        job.flush()
        server.fail(1, status, code)
        with pytest.raises(ServerError) as caught:
            job.result(1)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert tested.action.reported is None


@pytest.fixture
def flawed(server: JobServer) -> JobServer:
    """Return a server that fails on each report that contains a certain text, and only on those."""
    server.fail(10**6, containing=b"poison")
    return server


def quick(tested: TestedJob, flush_seconds: float = 0.02) -> Job:
    """Return a job that finds a server's failures suspicious after a moment."""
    job = Job(tested.info, timing=Timing(flush_seconds=flush_seconds, report_patience_seconds=60))
    job._reporter._transport._backoff = Backoff(first_seconds=0.01, longest_seconds=0.05)  # type: ignore[union-attr]
    return job


def test_a_line_that_the_server_fails_on_does_not_hold_up_the_rest(flawed: JobServer) -> None:
    tested = flawed.new_job()
    with quick(tested) as job:
        job.flush()
        job.log("poison")
        tested.wait_until(lambda tested: any(report.is_heartbeat for report in tested.reports))
        job.log("good")
        tested.wait_until(lambda tested: any(line.message == "good" for line in tested.logs))
        job.result(1)
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, "1")
    dropped, good = sent_logs(tested)
    assert dropped.startswith("[1 line was dropped here")
    assert good == "good"


@pytest.mark.parametrize("with_details", [False, True])
def test_a_line_that_the_server_fails_on_does_not_take_the_end_along(
    flawed: JobServer, with_details: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tested = flawed.new_job()
    with quick(tested) as job:
        if with_details:
            job.progress(50, "half")
        job.log("poison")
        job.result({"rows": 1})
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, '{"rows":1}')
    assert tested.action.agent is not None
    assert (tested.action.status_details is not None) == with_details
    assert "A report was lost" in capsys.readouterr().err


@pytest.mark.parametrize("statuses", [(0, 0), (429,)], ids=["cut connections", "429"])
def test_an_outage_after_server_errors_and_a_heartbeat_does_not_lose_the_end(
    server: JobServer, tested: TestedJob, statuses: tuple[int, ...]
) -> None:
    with quick(tested, flush_seconds=5) as job:
        job.log("first line")
        job.flush()
        for count, status in ((6, 500), *((1, status) for status in statuses)):
            server.fail(count, status, containing=b"last line")
        job.log("last line")
        job.result(1)
    assert any(report.is_heartbeat for report in tested.reports)
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, "1")
    assert sent_logs(tested) == ["first line", "last line"]


def test_an_end_that_the_server_fails_on_is_sent_as_long_as_there_is_time(flawed: JobServer) -> None:
    tested = flawed.new_job()
    with Job(tested.info, timing=Timing(report_patience_seconds=1.0, exit_patience_seconds=0)) as job:
        job.flush()
        with pytest.raises(ServerUnreachable) as caught:
            job.result("poison")
    assert (caught.value.status, caught.value.code) == (500, "internal")


def test_a_server_that_fails_on_everything_loses_nothing(server: JobServer, tested: TestedJob) -> None:
    with quick(tested) as job:
        job.flush()
        server.fail(40)
        for number in range(3):
            job.log(str(number))
        job.result(1)
    assert sent_logs(tested) == ["0", "1", "2"]
    assert tested.action.state is State.SUCCESS
