# SPDX-License-Identifier: Apache-2.0
"""The routes of tasks over real HTTP: follow an action, and send the runner's messages."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from airflow_asyncaction.protocol.actions import Completion, State, StopReason, Verb
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Launched, Stop
from airflow_asyncaction.protocol.signing import JOB_ID_HEADER
from tests.integration.signed_jobs import NewJob, SignedJob, encoded

pytestmark = pytest.mark.integration

UNSIGNED = (401, "bad_signature")
VIEW_KEYS = {
    "state",
    "isDone",
    "verb",
    "stopReason",
    "results",
    "errorName",
    "errorMessage",
    "statusDetails",
    "job",
    "exit",
    "isDeferred",
    "logs",
    "firstLine",
    "hasMoreLogs",
    "version",
}


def test_a_task_sees_the_reports_of_its_job(job: SignedJob) -> None:
    job.report(
        status="RUNNING",
        statusDetails={"progress": 40},
        logs=["one", {"message": "two", "level": "warning", "time": 5, "stream": "stderr"}],
    )
    answer = job.send("GET", "/task/action", query="after=0")
    assert set(answer.fields) == VIEW_KEYS
    assert job.info.secret_key.encode() not in answer.body
    view = job.view()
    assert (view.state, view.is_done, view.status_details) == (State.RUNNING, False, '{"progress":40}')
    assert [(line.message, line.level, line.time_ms, line.stream) for line in view.logs] == [
        ("one", "INFO", None, None),
        ("two", "WARNING", 5, "stderr"),
    ]
    assert (view.first_line, view.has_more_logs) == (1, False)
    assert [line.message for line in job.view(1).logs] == ["two"]
    assert job.view(2).logs == ()


@pytest.mark.parametrize("after", ["", "x", "-1", "-99999999999999999999", "1.5"])
def test_an_invalid_line_number_means_all_lines(job: SignedJob, after: str) -> None:
    job.report(logs=["one"])
    answer = job.send("GET", "/task/action", query=f"after={after}")
    assert (answer.status, len(answer.fields["logs"]), answer.fields["firstLine"]) == (200, 1, 1)


def test_a_line_number_beyond_the_last_returns_no_lines(job: SignedJob) -> None:
    job.report(logs=["one"])
    answer = job.send("GET", "/task/action", query=f"after={10**30}")
    assert (answer.status, answer.fields["logs"]) == (200, [])


def test_a_runner_reports_start_and_exit(job: SignedJob) -> None:
    assert job.send_message(Launched({"pid": 4711})).state is State.RUNNING
    assert job.report(status="SUCCESS", results=[1]).fields["job"] == {"pid": 4711}
    assert (job.view().state, job.view().is_done) == (State.SUCCESS, False)
    view = job.send_message(Exit(code=0))
    assert (view.state, view.is_done, view.results) == (State.SUCCESS, True, "[1]")


def test_an_exit_that_differs_from_the_report_is_an_error(job: SignedJob) -> None:
    job.report(status="SUCCESS")
    view = job.send_message(Exit(code=3, tail=("last words",)))
    assert (view.state, view.error_name) == (State.ERROR, "ExitCodeMismatch")
    assert view.error_message == "The job exited with code 3\nlast words"


def test_an_exit_reported_twice_counts_once(job: SignedJob) -> None:
    first = job.send_message(Exit(signal="SIGKILL"))
    assert job.send_message(Exit(code=0)) == first
    assert (first.state, first.error_name) == (State.ERROR, "Signal")


def test_a_report_alone_ends_work_that_was_submitted(new_job: NewJob) -> None:
    job = new_job(completion=Completion.REPORT)
    assert job.send_message(Exit(code=0)).is_done is False
    job.report(status="SUCCESS")
    assert job.view().is_done is True


def test_a_task_asks_its_job_to_stop(job: SignedJob) -> None:
    view = job.send_message(Stop(StopReason.KILLED))
    assert (view.verb, view.stop_reason, view.is_done) == (Verb.STOP, StopReason.KILLED, False)
    view = job.send_message(Abandon())
    assert (view.state, view.error_name, view.is_done) == (State.STOPPED, "Killed", True)


@pytest.mark.parametrize(
    ("spec", "is_started", "error_name"),
    [
        ({"start_timeout": timedelta(milliseconds=20)}, False, "JobNeverStarted"),
        ({"heartbeat_timeout": timedelta(milliseconds=20)}, True, "HeartbeatTimeout"),
    ],
)
def test_an_expired_timeout_ends_the_action_when_its_task_polls(
    new_job: NewJob, spec: dict[str, timedelta], is_started: bool, error_name: str
) -> None:
    job = new_job(**spec)
    if is_started:
        job.report()
    time.sleep(0.05)
    view = job.view()
    assert (view.state, view.error_name, view.is_done) == (State.TIMEOUT, error_name, True)
    assert job.report().error == (410, "superseded")


def test_v1_is_not_enough_for_a_task(job: SignedJob) -> None:
    assert job.send_v1("GET", "/task/action").error == UNSIGNED
    assert job.send_v1("POST", "/task/message", {"kind": "abandon"}).error == UNSIGNED
    assert job.report().status == 200


def test_another_job_may_not_read_or_write(new_job: NewJob) -> None:
    job, other = new_job(), new_job()
    thief = other.forged(job_id=job.info.job_id)
    assert thief.send("GET", "/task/action").error == UNSIGNED
    assert thief.send("POST", "/task/message", {"kind": "abandon"}).error == UNSIGNED
    headers = other.headers("POST", "/task/message", b'{"kind": "abandon"}')
    headers[JOB_ID_HEADER] = job.info.job_id
    assert other.client.send("POST", "/task/message", b'{"kind": "abandon"}', headers).error == UNSIGNED
    assert job.report().status == 200


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ({}, "kind"),
        ({"kind": "hello"}, "kind"),
        ({"kind": "launched"}, "job"),
        ({"kind": "exit", "tail": "x"}, "tail"),
        ({"kind": "exit", "tail": [], "code": "0"}, "code"),
        ({"kind": "stop", "reason": "bored"}, "reason"),
        ({"kind": "stop", "reason": {}}, "reason"),
    ],
)
def test_an_invalid_message_is_malformed(job: SignedJob, word: dict[str, object], field: str) -> None:
    answer = job.send("POST", "/task/message", word)
    assert (answer.error, answer.fields["field"]) == ((400, "malformed"), field)


def test_a_message_may_have_any_characters(job: SignedJob) -> None:
    assert job.send("POST", "/task/message", encoded({"kind": "launched", "job": {"\0": "\0"}})).status == 200
    exit_ = {"kind": "exit", "reason": "Odd\0" + "x" * 300, "message": "m\0", "tail": ["t\0", "é"]}
    answer = job.send("POST", "/task/message", exit_)
    assert answer.status == 200
    assert answer.fields["errorName"] == "Odd\ufffd" + "x" * 246
    assert answer.fields["errorMessage"] == "m\ufffd\nt\ufffd\né"
