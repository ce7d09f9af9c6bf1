# SPDX-License-Identifier: Apache-2.0
"""Job client, against a real server with real outages."""

from __future__ import annotations

import json
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_asyncaction import job as public
from airflow_asyncaction.exceptions import JobInfoError
from airflow_asyncaction.job import (
    Job,
    LogLine,
    Request,
    ServerError,
    Superseded,
    Timing,
    current_job,
    open_job,
    use_job,
)
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.reports import Limits, ReportedStatus
from airflow_asyncaction.testing import JobServer, TestedJob
from tests.unit.tested_jobs import sent_logs

QUICK = Timing(flush_seconds=0.02, report_patience_seconds=60)
LONG_AGO_SECONDS = 60.0
ROOT = Path(__file__).parent.parent.parent


def test_public_names() -> None:
    assert all(hasattr(public, name) for name in public.__all__)
    assert sorted(public.__all__) == public.__all__


def test_first_report_says_running_and_who(tested: TestedJob, job: Job) -> None:
    tested.wait_until(lambda tested: tested.reports)
    report = tested.reports[0]
    assert report.status is ReportedStatus.RUNNING
    assert report.agent is not None
    assert set(json.loads(report.agent)) == {"hostname", "platform", "pid", "python"}
    assert not job.is_stopping()


def test_requests_are_signed_with_v2(tested: TestedJob, job: Job) -> None:
    job.flush()
    assert all(request.claim.scheme == "v2" for request in tested.requests)
    assert not tested.action.accept_v1


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, {"a": [1.5, "ü😀"]}, "x" * 100_000])
def test_results_arrive(tested: TestedJob, job: Job, value: Any) -> None:
    job.result(value)
    assert tested.action.state is State.SUCCESS
    assert tested.action.results is not None
    assert json.loads(tested.action.results) == value


def test_success_without_a_result(tested: TestedJob, job: Job) -> None:
    job.succeed()
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, None)


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), "\ud800", {"a": b""}, {(1, 2): 3}])
def test_what_is_not_json_is_a_type_error_and_not_sent(tested: TestedJob, job: Job, value: Any) -> None:
    with pytest.raises(TypeError, match="result must be a JSON value"):
        job.result(value)
    job.flush()
    assert tested.action.reported is None


def test_the_end_takes_all_log_lines_along_in_order(tested: TestedJob, job: Job) -> None:
    for number in range(3500):
        job.log(f"line {number}")
    job.result(1)
    assert sent_logs(tested) == [f"line {number}" for number in range(3500)]
    assert all(len(report.logs) <= 1000 for report in tested.reports)
    assert tested.reports[-1].is_terminal


def test_lines_are_sent_together(tested: TestedJob) -> None:
    with Job(tested.info, timing=Timing(flush_seconds=30)) as job:
        tested.wait_until(lambda tested: tested.reports)
        for number in range(400):
            job.log(str(number))
        assert sent_logs(tested) == []
    assert [len(report.logs) for report in tested.reports] == [0, 400]


def test_many_or_large_lines_do_not_wait(tested: TestedJob) -> None:
    with Job(tested.info, timing=Timing(flush_seconds=600, heartbeat_seconds=600)) as job:
        tested.wait_until(lambda tested: tested.reports)
        for _ in range(500):
            job.log("short")
        tested.wait_until(lambda tested: len(tested.logs) == 500)
        for _ in range(40):
            job.log("x" * 16_000)
        tested.wait_until(lambda tested: len(tested.logs) > 500)


def test_large_lines_fill_more_reports(tested: TestedJob, job: Job) -> None:
    for number in range(150):
        job.log(f"{number} " + "\x01ü" * 8000)
    job.result("r" * 700_000)
    assert [message.split()[0] for message in sent_logs(tested)] == [str(number) for number in range(150)]
    assert all(request.status == 200 for request in tested.requests)


def test_a_result_of_a_whole_report_leaves_the_lines_to_others(server: JobServer) -> None:
    tested = server.new_job()
    with Job(tested.info, timing=QUICK) as job:
        job.log("before")
        job.result("r" * 1_000_000)
    assert sent_logs(tested) == ["before"]
    assert tested.action.state is State.SUCCESS


def test_a_result_too_large_is_refused_with_its_code(job: Job) -> None:
    with pytest.raises(ServerError) as caught:
        job.result("r" * 1_100_000)
    assert (caught.value.status, caught.value.code) == (413, "too_large")


def test_a_server_with_lower_limits_gets_smaller_reports() -> None:
    with JobServer(limits=Limits(body_bytes=20_000, report_log_lines=100)) as server:
        tested = server.new_job()
        with Job(tested.info, timing=QUICK) as job:
            for number in range(1500):
                job.log(f"{number} " + "x" * 100)
            job.result(1)
    assert [message.split()[0] for message in sent_logs(tested)] == [str(number) for number in range(1500)]
    assert tested.action.state is State.SUCCESS


def test_a_log_line_is_complete_cut_and_clean(tested: TestedJob, job: Job) -> None:
    job.log("warn \ud800!", "warning", stream="stderr")
    job.log("ü" * 20_000)
    job.result(1)
    first, second = tested.logs
    assert (first.message, first.level, first.stream) == ("warn ?!", "WARNING", "stderr")
    assert first.time_ms is not None
    assert abs(first.time_ms / 1000 - time.time()) < LONG_AGO_SECONDS
    assert second.message.endswith(" [cut: the line has 40000 bytes]")


def test_echo_gets_each_line_at_once_in_the_same_thread(tested: TestedJob) -> None:
    seen: list[tuple[LogLine, int]] = []
    with Job(tested.info, echo=lambda line: seen.append((line, threading.get_ident()))) as job:
        job.log("now")
        assert [(line.message, ident) for line, ident in seen] == [("now", threading.get_ident())]


def test_progress_is_coalesced_and_the_latest_wins(tested: TestedJob) -> None:
    with Job(tested.info, timing=Timing(flush_seconds=600, heartbeat_seconds=600)) as job:
        tested.wait_until(lambda tested: tested.reports)
        for percent in range(99):
            job.progress(percent, "loading")
        job.progress(100, "loaded")
        tested.wait_until(lambda tested: tested.action.status_details is not None)
    assert tested.action.status_details == '{"progress":100,"message":"loaded"}'
    assert len(tested.reports) <= 3


@pytest.mark.parametrize(("percent", "sent"), [(True, 1), (Decimal("0.5"), 0.5), (33.25, 33.25)])
def test_progress_is_any_number(tested: TestedJob, job: Job, percent: Any, sent: float) -> None:
    job.progress(percent)
    job.result(1)
    assert json.loads(tested.action.status_details or "") == {"progress": sent}


@pytest.mark.parametrize("percent", [-1, 101, float("nan"), float("inf")])
def test_progress_outside_0_to_100_is_a_value_error(job: Job, percent: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 100"):
        job.progress(percent)


def test_heartbeats_come_by_themselves(tested: TestedJob) -> None:
    with Job(tested.info, timing=Timing(heartbeat_seconds=0.02)):
        tested.wait_until(lambda tested: sum(report.is_heartbeat for report in tested.reports) >= 3)
    assert {request.body for request in tested.requests[1:]} == {b""}


def test_no_heartbeat_after_the_end(tested: TestedJob) -> None:
    with Job(tested.info, timing=Timing(heartbeat_seconds=0.02)) as job:
        job.result(1)
        count = len(tested.requests)
        time.sleep(0.2)
        assert len(tested.requests) == count
        job.log("afterthought")
    assert sent_logs(tested) == ["afterthought"]


def test_arguments_come_from_the_environment_or_the_server(server: JobServer) -> None:
    small, large = server.new_job({"a": 1}), server.new_job(["x" * 40_000])
    with open_job(small.environ) as job:
        assert job.arguments == {"a": 1}
    assert "JOB_ARGUMENTS" not in large.environ
    with open_job(large.environ) as job:
        assert job.arguments == ["x" * 40_000]
        assert job.arguments is job.arguments
    assert [request.path for request in small.requests if request.method == "GET"] == []
    assert [request.path for request in large.requests if request.method == "GET"] == ["/job"]


def test_other_routes_can_be_called(job: Job) -> None:
    with pytest.raises(ServerError) as caught:
        job.send(Request("GET", "/download/x%20y", query="redirect=false"))
    assert caught.value.status == 404


def test_fail_with_an_exception_or_words(server: JobServer) -> None:
    by_exception, by_words = server.new_job(), server.new_job()
    with Job(by_exception.info) as job:
        job.fail(KeyError("k"))
    with Job(by_words.info) as job:
        job.fail("m" * 20_000, name="Mine")
    assert (by_exception.action.error_name, by_exception.action.error_message) == ("KeyError", "'k'")
    assert by_words.action.error_name == "Mine"
    assert (by_words.action.error_message or "").startswith("mmm")


def test_leaving_by_an_exception_fails_and_lets_it_pass(tested: TestedJob) -> None:
    def run() -> None:
        with Job(tested.info) as job:
            job.log("about to")
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        run()
    assert (tested.action.state, tested.action.error_name) == (State.ERROR, "ZeroDivisionError")
    assert sent_logs(tested) == ["about to"]


def test_leaving_normally_or_by_sys_exit_leaves_the_end_to_the_exit_code(server: JobServer) -> None:
    def leave(tested: TestedJob, *, by_exit: bool) -> None:
        with Job(tested.info) as job:
            job.log("done")
            if by_exit:
                sys.exit(3)

    normally, by_exit = server.new_job(), server.new_job()
    leave(normally, by_exit=False)
    with pytest.raises(SystemExit):
        leave(by_exit, by_exit=True)
    for tested in (normally, by_exit):
        assert (tested.action.reported, sent_logs(tested)) == (None, ["done"])


def test_an_exception_after_the_result_contradicts_nothing(tested: TestedJob) -> None:
    def run() -> None:
        with Job(tested.info) as job:
            job.result(1)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        run()
    assert tested.action.state is State.SUCCESS


def test_another_end_is_refused(job: Job) -> None:
    job.result(1)
    with pytest.raises(ServerError) as caught:
        job.fail("no")
    assert (caught.value.status, caught.value.code) == (409, "already_ended")


def test_stop_is_heard_with_the_next_answer(tested: TestedJob) -> None:
    with Job(tested.info, timing=Timing(heartbeat_seconds=0.02)) as job:
        tested.stop()
        poll(job.is_stopping)
        job.fail("stopped half-way", name="Stopped")


@pytest.mark.parametrize("is_in_airflow", [True, False])
def test_it_is_stopping_once_its_own_program_says_so(tested: TestedJob, is_in_airflow: bool) -> None:
    job = Job(tested.info if is_in_airflow else None)
    assert not job.is_stopping()
    job.ask_to_stop()
    assert job.is_stopping()
    job.close()


def test_superseded_stops_and_refuses(tested: TestedJob) -> None:
    with Job(tested.info, timing=Timing(heartbeat_seconds=0.02)) as job:
        tested.supersede()
        poll(job.is_stopping)
        job.log("nobody wants this")
        with pytest.raises(Superseded):
            job.result(1)
    assert tested.action.state is State.STOPPED


def poll(is_met: Any) -> None:
    deadline = time.monotonic() + LONG_AGO_SECONDS
    while not is_met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_unusable_hook_url_is_reported_immediately(tested: TestedJob) -> None:
    for hook in ("http://", "http://h:port", "http://[", "http:///path"):
        with pytest.raises(JobInfoError, match="JOB_HOOK"):
            open_job({**tested.environ, "JOB_HOOK": hook})


def test_a_hook_at_the_root_of_a_host() -> None:
    with JobServer(prefix="") as server:
        tested = server.new_job()
        with Job(tested.info) as job:
            job.result(1)
        assert tested.action.state is State.SUCCESS


def test_current_job_is_the_innermost_also_in_threads(server: JobServer) -> None:
    outer, inner = Job(server.new_job().info), Job(server.new_job().info)
    seen: list[Job] = []
    with use_job(outer):
        with use_job(inner):
            thread = threading.Thread(target=lambda: seen.append(current_job()))
            thread.start()
            thread.join()
            assert current_job() is inner
        assert current_job() is outer
    assert seen == [inner]
    outer.close()
    inner.close()
