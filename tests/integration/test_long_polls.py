# SPDX-License-Identifier: Apache-2.0
"""Long polls: requests that wait at the server until their action changes, and the tasks that send them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import pytest
from sqlalchemy.exc import OperationalError

from airflow_asyncaction import settings
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.operators.poller import ActionPoller
from airflow_asyncaction.protocol.actions import State, StopReason, Verb
from airflow_asyncaction.protocol.lifecycle import Exit, Launched, Stop
from airflow_asyncaction.protocol.tasks import TaskView
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.web.app import Serving
from airflow_asyncaction.web.long_polls import LongPollLimits
from tests.integration.airflow_server import airflow_server
from tests.integration.databases import Database, on_postgresql
from tests.integration.long_poll_server import PATIENCE_SECONDS, LongPollServer, long_poll_server, until
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import Answer, HookClient, NewJob, SignedJob, registered

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

pytestmark = pytest.mark.integration

INTERVAL_SECONDS = 0.1
NEVER_SECONDS = 600.0
LIMITS = LongPollLimits(interval_seconds=INTERVAL_SECONDS, longest_wait_seconds=NEVER_SECONDS)
TIMES = 20


@pytest.fixture
def limits() -> LongPollLimits:
    return LIMITS


@pytest.fixture
def options() -> settings.Settings:
    return settings.load()


@pytest.fixture
def server(
    database: Database, limits: LongPollLimits, options: settings.Settings
) -> Iterator[LongPollServer]:
    with long_poll_server(database, Serving(job_threads=1, long_polls=limits), options) as server:
        yield server


@pytest.fixture
def hook(server: LongPollServer) -> str:
    return server.hook


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def poll(job: SignedJob, version: str | None, wait_seconds: float = NEVER_SECONDS) -> Answer:
    """Send one request on a connection of its own."""
    with HookClient(job.client.hook) as client:
        query = f"after=0&version={version}&wait={wait_seconds:g}"
        return job.on(client).send("GET", "/task/action", query=query)


def held(
    server: LongPollServer, threads: ThreadPoolExecutor, job: SignedJob, *, count: int = 1
) -> Future[Answer]:
    """Return a request that the server holds.

    :param count: how many requests it then holds
    """
    answer = threads.submit(poll, job, job.view().version)
    server.wait_for_held(count)
    return answer


def view_of(answer: Future[Answer]) -> TaskView:
    return TaskView.from_json(answer.result(PATIENCE_SECONDS).fields)


def stop(actions: Actions, job: SignedJob) -> None:
    actions.apply_message(job.info.job_id, Stop(StopReason.REQUESTED), datetime.now(UTC))


# --- what is answered, and when


def test_a_stop_is_answered(
    server: LongPollServer, threads: ThreadPoolExecutor, job: SignedJob, actions: Actions
) -> None:
    answer = held(server, threads, job)
    stop(actions, job)
    assert view_of(answer).verb is Verb.STOP


def test_a_report_with_lines_is_answered(
    server: LongPollServer, threads: ThreadPoolExecutor, job: SignedJob
) -> None:
    answer = held(server, threads, job)
    job.report(logs=["one", "two"])
    assert [line.message for line in view_of(answer).logs] == ["one", "two"]


def test_progress_is_answered(server: LongPollServer, threads: ThreadPoolExecutor, job: SignedJob) -> None:
    job.report(statusDetails={"progress": 1})
    answer = held(server, threads, job)
    job.report(statusDetails={"progress": 2})
    assert view_of(answer).status_details == '{"progress":2}'


@pytest.mark.parametrize("timeout", ["start_timeout", "heartbeat_timeout"])
def test_an_expired_timeout_is_answered(
    server: LongPollServer, threads: ThreadPoolExecutor, new_job: NewJob, timeout: str
) -> None:
    job = new_job(**{timeout: timedelta(seconds=2)})
    if timeout == "heartbeat_timeout":
        job.send_message(Launched({}))
    answer = held(server, threads, job)
    assert view_of(answer).state is State.TIMEOUT


def test_the_end_of_the_action_is_answered(
    server: LongPollServer, threads: ThreadPoolExecutor, job: SignedJob
) -> None:
    answer = held(server, threads, job)
    job.send_message(Exit(code=0))
    assert view_of(answer).is_done


def test_a_change_that_the_task_has_not_seen_is_answered(job: SignedJob) -> None:
    version = job.view().version
    job.report(logs=["one"])
    view = TaskView.from_json(poll(job, version).fields)
    assert [line.message for line in view.logs] == ["one"]
    assert view.version != version


def test_a_request_without_news_is_answered_after_its_time(server: LongPollServer, job: SignedJob) -> None:
    version = job.view().version
    answer = poll(job, version, 10 * INTERVAL_SECONDS)
    assert (answer.status, answer.body) == (304, b"")
    assert server.looks


@pytest.mark.parametrize("wait", ["", "x", "0", "-1", "nan"])
def test_an_invalid_wait_is_answered_at_once(server: LongPollServer, job: SignedJob, wait: str) -> None:
    answer = job.send("GET", "/task/action", query=f"after=0&version={job.view().version}&wait={wait}")
    assert answer.status == 200
    assert server.looks == []


@pytest.mark.parametrize("query", ["", "after=0", "after=0&wait=600", "version=x"])
def test_workers_of_earlier_releases_are_answered_at_once(
    server: LongPollServer, job: SignedJob, query: str
) -> None:
    assert job.send("GET", "/task/action", query=query).status == 200
    assert server.looks == []


def test_a_request_with_another_signature_is_refused(job: SignedJob, new_job: NewJob) -> None:
    version = job.view().version
    for forged in (job.forged(secrets_of=new_job()), job.swapped()):
        assert poll(forged, version).error == (401, "bad_signature")


def test_a_request_for_an_unknown_action_is_refused(job: SignedJob) -> None:
    forged = job.forged(job_id="00000000-0000-4000-8000-000000000000")
    assert poll(forged, job.view().version).error == (401, "bad_signature")


@pytest.mark.parametrize("failure", [OperationalError("", {}, OSError()), ZeroDivisionError()], ids=type)
def test_changes_are_answered_after_queries_that_failed(
    server: LongPollServer, threads: ThreadPoolExecutor, job: SignedJob, failure: Exception
) -> None:
    answer = held(server, threads, job)
    server.failure = failure
    server.wait_for_looks(2)
    assert poll(job, job.view().version, 3 * INTERVAL_SECONDS).status == 200
    job.report(logs=["one"])
    server.failure = None
    assert view_of(answer).logs


def test_a_change_at_any_moment_is_answered(
    server: LongPollServer, threads: ThreadPoolExecutor, job: SignedJob
) -> None:
    for number in range(TIMES):
        version = job.view().version
        answer = threads.submit(poll, job, version)
        time.sleep(number * 1.5 * INTERVAL_SECONDS / TIMES)
        job.report(logs=[str(number)])
        assert view_of(answer).logs[-1].message == str(number)
    assert server.begun == server.ended


class TestWithLittleSkew:
    """The clock skew that is allowed limits how long a signature is valid, and so how long it may wait."""

    @pytest.fixture
    def options(self) -> settings.Settings:
        return replace(settings.load(), max_clock_skew=timedelta(seconds=2))

    def test_a_request_does_not_become_stale(self, job: SignedJob) -> None:
        assert poll(job, job.view().version).status == 304


# --- what it costs


class TestWithManyPerAction:
    """A limit that lets few actions have many requests."""

    @pytest.fixture
    def limits(self) -> LongPollLimits:
        return replace(LIMITS, per_action=20)

    def test_requests_that_wait_take_no_threads(
        self, server: LongPollServer, job: SignedJob, new_job: NewJob, actions: Actions
    ) -> None:
        jobs = [new_job() for _ in range(10)]
        before = threading.active_count()
        with ExitStack() as connections:
            answers = []
            for each in jobs * 20:
                connection = connections.enter_context(open_request(each))
                answers.append(connections.enter_context(connection.makefile("rb")))
            server.wait_for_held(200)
            assert threading.active_count() <= before + 1
            assert job.report(status="RUNNING").status == 200
            for each in jobs:
                stop(actions, each)
            assert {answer.readline() for answer in answers} == {b"HTTP/1.1 200 OK\r\n"}


def open_request(job: SignedJob) -> socket.socket:
    """Send a request that waits, and return its connection."""
    parts, path = urlsplit(job.client.hook), "/task/action"
    query = f"after=0&version={job.view().version}&wait={NEVER_SECONDS:g}"
    headers = {"Host": parts.netloc, **job.headers("GET", path, b"", query=query)}
    lines = [f"GET {parts.path}{path}?{query} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    connection = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_SECONDS)
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def test_a_client_that_leaves_is_not_waited_for(
    server: LongPollServer, threads: ThreadPoolExecutor, job: SignedJob
) -> None:
    for _ in range(LIMITS.per_action + 1):
        with open_request(job):
            server.wait_for_held(1)
        until(lambda: server.begun == server.ended)
    answer = held(server, threads, job)
    job.report(logs=["one"])
    assert view_of(answer).logs


def test_more_requests_for_an_action_are_answered_at_once(
    server: LongPollServer, threads: ThreadPoolExecutor, job: SignedJob, new_job: NewJob, actions: Actions
) -> None:
    answers = [held(server, threads, job, count=count + 1) for count in range(LIMITS.per_action)]
    assert poll(job, job.view().version).status == 200
    other = new_job()
    answers.append(held(server, threads, other, count=LIMITS.per_action + 1))
    stop(actions, job)
    stop(actions, other)
    assert {view_of(answer).verb for answer in answers} == {Verb.STOP}


class TestWithFewInAll:
    """A process of the API server holds a limited number of requests."""

    @pytest.fixture
    def limits(self) -> LongPollLimits:
        return replace(LIMITS, in_all=1)

    def test_more_requests_are_answered_at_once(
        self, server: LongPollServer, threads: ThreadPoolExecutor, job: SignedJob, new_job: NewJob
    ) -> None:
        answer = held(server, threads, job)
        other = new_job()
        assert poll(other, other.view().version).status == 200
        job.report(logs=["one"])
        assert view_of(answer).logs


# --- the tasks that wait


def follow(
    job: SignedJob, *, interval_seconds: float = 1, on_stop: Callable[[], None] = lambda: None
) -> ActionPoller:
    poller = ActionPoller(
        TaskHook(job.client.hook),
        job.task,
        cast("Logger", logging.getLogger("task")),
        interval=timedelta(seconds=interval_seconds),
        copies_logs=True,
        on_stop=on_stop,
    )
    poller.start()
    return poller


def test_twenty_waiting_tasks_cost_one_query_at_a_time(
    server: LongPollServer, new_job: NewJob, actions: Actions
) -> None:
    started_at = time.monotonic()
    jobs = [new_job() for _ in range(20)]
    pollers = [follow(job) for job in jobs]
    until(lambda: server.begun == 40)  # the first one does not know the version, and is answered at once
    server.wait_for_held(20)
    server.wait_for_looks(20)
    assert (server.begun, server.ended) == (40, 20)
    assert len(server.looks) <= 1 + (time.monotonic() - started_at) / INTERVAL_SECONDS
    for job, poller in zip(jobs, pollers, strict=True):
        poller.finish()
        stop(actions, job)  # so that the request it has left behind is answered


def test_a_task_that_waits_stops_its_job(server: LongPollServer, job: SignedJob, actions: Actions) -> None:
    stopped = threading.Event()
    poller = follow(job, on_stop=stopped.set)
    server.wait_for_held(1)
    stop(actions, job)
    assert stopped.wait(PATIENCE_SECONDS)
    poller.finish()


def test_a_task_that_waits_reports_the_launch(server: LongPollServer, job: SignedJob) -> None:
    poller = follow(job, interval_seconds=NEVER_SECONDS)
    until(lambda: server.ended)
    poller.report_launch({"pid": 1})
    until(lambda: job.view().state is State.RUNNING)
    poller.finish()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True, scope="session")
class TestWithoutLooks:
    """The server never looks for changes again, so a request is held to its end."""

    @pytest.fixture
    def limits(self) -> LongPollLimits:
        return LongPollLimits(interval_seconds=NEVER_SECONDS, longest_wait_seconds=8)

    def test_the_end_of_a_job_is_not_delayed_by_a_request_that_waits(
        self, server: LongPollServer, job: SignedJob, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "task"):
            poller = follow(job)
            until(lambda: server.begun == 2)
            job.report(logs=["last"])
            poller.finish()
            assert server.begun - server.ended == 1
        assert [record.getMessage() for record in caplog.records if record.name == "task"] == ["last"]


# --- a server that stops


@on_postgresql
def test_a_server_that_stops_answers_requests_that_wait(
    database: Database,  # noqa: ARG001 - Airflow uses it
    new_task: Callable[..., RunningTask],
    threads: ThreadPoolExecutor,
    tmp_path: Path,
) -> None:
    with airflow_server(tmp_path / "log", environ={}) as server, HookClient(server.hook) as client:
        job = registered(new_task(), client)
        answer = threads.submit(poll, job, job.view().version)
        time.sleep(1)  # it would otherwise be refused with the connection
        started_at = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        assert view_of(answer).state is State.STARTING
        assert time.monotonic() - started_at < 8  # half of how long it would wait
