# SPDX-License-Identifier: Apache-2.0
"""Poller over real HTTP: log lines once and in order, progress, and the verb STOP."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs

import pytest

from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.operators.poller import ActionPoller
from airflow_asyncaction.protocol.actions import State, Verb
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import LogLine
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.protocol.tasks import ActionSpec, TaskCredentials, TaskView
from airflow_asyncaction.runners.task_log import describe_progress
from tests.unit.task_server import Answer, TaskServer
from tests.unit.test_hook import AWAY, SEEN, VIEW

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

WAIT_SECONDS = 30


def answer(*messages: str, first_line: int = 1, **changes: object) -> Answer:
    lines = tuple(LogLine(message) for message in messages)
    view: TaskView = replace(VIEW, logs=lines, first_line=first_line, **changes)  # type: ignore[arg-type]
    return Answer(fields=view.to_json())


def follow(
    server: TaskServer,
    *,
    copies_logs: bool = True,
    hook: TaskHook | None = None,
    interval_seconds: float = 0.05,
) -> tuple[ActionPoller, threading.Event]:
    stopped = threading.Event()
    task = TaskCredentials(JobId(str(uuid.uuid4())), "s" * 43)
    poller = ActionPoller(
        hook or TaskHook(server.url),
        task,
        cast("Logger", logging.getLogger("task")),
        interval=timedelta(seconds=interval_seconds),
        copies_logs=copies_logs,
        on_stop=stopped.set,
    )
    poller.start()
    return poller, stopped


def asked_for(server: TaskServer) -> list[str]:
    return [request.path.partition("after=")[2] for request in server.requests if request.method == "GET"]


def wait_for_reads(server: TaskServer, count: int) -> None:
    """Wait until the responses before the last of these requests have been written."""
    while len(asked_for(server)) < count:
        threading.Event().wait(0.01)


def test_lines_are_written_once_and_in_order_over_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    answers = [answer("one", "two"), AWAY, AWAY, answer("three", first_line=3), SEEN]
    with TaskServer(answers) as server, caplog.at_level(logging.INFO, "task"):
        poller, stopped = follow(server)
        wait_for_reads(server, 5)
        poller.finish()
        asked = asked_for(server)
    said = [record.getMessage() for record in caplog.records if record.name == "task"]
    assert [line for line in said if "503" not in line] == ["one", "two", "three"]
    assert len([line for line in said if "503" in line]) == 1
    assert asked[:4] == ["0", "2", "2", "2"]
    assert asked[-1] == "3"
    assert not stopped.is_set()


def test_more_lines_are_fetched_immediately(caplog: pytest.LogCaptureFixture) -> None:
    answers = [answer("one", has_more_logs=True), answer("two", first_line=2, has_more_logs=True), SEEN]
    with TaskServer(answers) as server, caplog.at_level(logging.INFO, "task"):
        poller, _ = follow(server)
        wait_for_reads(server, 3)
        poller.finish()
        assert asked_for(server)[:3] == ["0", "1", "2"]
    assert [record.getMessage() for record in caplog.records if record.name == "task"] == ["one", "two"]


def test_lines_that_are_in_the_task_log_already_are_not_copied(caplog: pytest.LogCaptureFixture) -> None:
    answers = [answer("one", status_details=JsonText("40")), SEEN]
    with TaskServer(answers) as server, caplog.at_level(logging.INFO, "task"):
        poller, _ = follow(server, copies_logs=False)
        wait_for_reads(server, 2)
        poller.finish()
    said = [record.getMessage() for record in caplog.records if record.name == "task"]
    assert said == ["progress 40%"]


def test_progress_is_logged_once_per_step(caplog: pytest.LogCaptureFixture) -> None:
    steps = [answer(status_details=JsonText(text)) for text in ("1", "1", "2", "2")]
    with TaskServer(steps) as server, caplog.at_level(logging.INFO, "task"):
        poller, _ = follow(server)
        wait_for_reads(server, 5)
        poller.finish()
    said = [record.getMessage() for record in caplog.records if record.name == "task"]
    assert said == ["progress 1%", "progress 2%"]


def test_dropped_lines_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with TaskServer([answer("late", first_line=11), SEEN]) as server, caplog.at_level(logging.INFO, "task"):
        poller, _ = follow(server)
        wait_for_reads(server, 2)
        poller.finish()
    assert [record.getMessage() for record in caplog.records if record.name == "task"] == [
        "10 reported lines were dropped (max_log_lines)",
        "late",
    ]


def test_lines_that_the_job_has_printed_as_well_are_not_written_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = (LogLine("printed", stream="stdout"), LogLine("reported", level="ERROR"))
    seen = Answer(fields=replace(VIEW, logs=lines).to_json())
    with TaskServer([seen, SEEN]) as server, caplog.at_level(logging.INFO, "task"):
        poller, _ = follow(server)
        wait_for_reads(server, 2)
        poller.finish()
    assert [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "task"] == [
        ("ERROR", "reported")
    ]


@pytest.mark.parametrize(
    "seen", [answer(verb=Verb.STOP), answer(state=State.TIMEOUT, is_done=True)], ids=["verb", "end"]
)
def test_a_job_that_must_stop_is_stopped(seen: Answer) -> None:
    with TaskServer([SEEN, seen]) as server:
        poller, stopped = follow(server)
        assert stopped.wait(WAIT_SECONDS)
        poller.finish()


def test_it_tells_that_the_job_is_up_and_waits_for_the_end() -> None:
    with TaskServer([SEEN, SEEN, answer(state=State.SUCCESS, is_done=True)]) as server:
        poller, _ = follow(server)
        poller.report_launch({"pid": 7})
        poller.wait_until_done()
        poller.finish()
        words = [request.body for request in server.requests if request.method == "POST"]
    assert words == [b'{"kind": "launched", "job": {"pid": 7}}']


def test_a_job_whose_description_is_refused_is_up_all_the_same() -> None:
    refused = Answer(413, {"error": "too_large", "message": "make it smaller"})
    with TaskServer([SEEN], [refused, SEEN]) as server:
        poller, _ = follow(server)
        poller.report_launch({"pods": "x" * 1000})
        while sum(request.method == "POST" for request in server.requests) < 2:
            threading.Event().wait(0.01)
        poller.finish()
        words = [json.loads(request.body) for request in server.requests if request.method == "POST"]
    assert [word["job"] for word in words] == [{"pods": "x" * 1000}, {}]


def queries(server: TaskServer) -> list[dict[str, list[str]]]:
    return [parse_qs(request.path.partition("?")[2]) for request in server.requests]


def test_a_request_waits_for_another_version() -> None:
    answers = [answer("one", version="v1"), Answer(304), answer("two", first_line=2, version="v2"), SEEN]
    with TaskServer(answers) as server:
        poller, _ = follow(server, interval_seconds=1)
        wait_for_reads(server, 4)
        poller.finish()
        first, *others, last = queries(server)
    assert (first, last) == ({"after": ["0"]}, {"after": ["2"]})
    assert [(one["after"], one["version"]) for one in others] == [
        (["1"], ["v1"]),
        (["1"], ["v1"]),
        (["2"], ["v2"]),
    ]
    assert all(10 <= float(one["wait"][0]) <= 14 for one in others)


def test_a_server_that_does_not_wait_is_polled_at_the_interval() -> None:
    started_at = time.monotonic()
    with TaskServer([answer(version="v1")]) as server:
        poller, _ = follow(server, interval_seconds=1)
        wait_for_reads(server, 3)
        assert time.monotonic() - started_at > 2 * 0.99
        poller.finish()


def test_a_server_without_versions_is_not_asked_to_wait() -> None:
    older = {name: value for name, value in VIEW.to_json().items() if name != "version"}
    with TaskServer([Answer(fields=older)]) as server:
        poller, _ = follow(server, interval_seconds=1)
        wait_for_reads(server, 2)
        poller.finish()
        assert {tuple(query) for query in queries(server)} == {("after",)}


def test_no_request_waits_once_the_job_must_stop() -> None:
    with TaskServer([answer(verb=Verb.STOP, version="v1")]) as server:
        poller, stopped = follow(server, interval_seconds=1)
        wait_for_reads(server, 2)
        assert stopped.is_set()
        poller.finish()
        assert {tuple(query) for query in queries(server)} == {("after",)}


@pytest.mark.parametrize(
    ("details", "line"),
    [
        ("40", "progress 40%"),
        ('{"progress":40.5,"message":"loading"}', "progress 40.5%: loading"),
        ('{"progress":0}', "progress 0%"),
        ('{"message":"loading"}', "status details loading"),
        ('{"progress":1,"rows":2}', "progress 1%"),
        ('{"rows":2}', 'status details {"rows":2}'),
        ('"loading"', 'status details "loading"'),
        ("true", "status details true"),
        ("null", "status details null"),
        ("[1]", "status details [1]"),
        (str(10**400), f"status details {10**400}"),
        ("NaN", "status details NaN"),
        ('{"progress":1,"message":"a\\u0000\\ud800"}', "progress 1%: a\ufffd?"),
        (json.dumps("x" * 20_000), f'status details "{"x" * 16_336} [cut: the line has 20017 bytes]'),
    ],
)
def test_progress_in_words(details: str, line: str) -> None:
    assert describe_progress(JsonText(details)) == line


def test_secrets_that_the_process_comes_to_know_are_shared_once(mask: Callable[[str], None]) -> None:
    given = {
        "actionId": str(uuid.uuid4()),
        "secretKey": "s" * 43,
        "taskKey": "t" * 43,
        "orchestrator": "here",
    }
    with TaskServer([Answer(fields={**given, "wasLaunched": False}), SEEN]) as server:
        hook = TaskHook(server.url)
        hook.register("ti", "nonce", ActionSpec(type="t", runner="local"))
        poller, _ = follow(server, hook=hook)
        mask("known later")
        while len(asked_for(server)) < 3 or not shared(server):
            threading.Event().wait(0.01)
        poller.finish()
    assert shared(server) == [{"secrets": ["known later"]}]


def shared(server: TaskServer) -> list[object]:
    return [json.loads(request.body) for request in server.requests if request.path.endswith("/task/secrets")]
