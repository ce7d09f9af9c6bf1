# SPDX-License-Identifier: Apache-2.0
"""Poller over real HTTP: log lines once and in order, progress, and the verb STOP."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, cast

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
    server: TaskServer, *, copies_logs: bool = True, hook: TaskHook | None = None
) -> tuple[ActionPoller, threading.Event]:
    stopped = threading.Event()
    task = TaskCredentials(JobId(str(uuid.uuid4())), "s" * 43)
    poller = ActionPoller(
        hook or TaskHook(server.url),
        task,
        cast("Logger", logging.getLogger("task")),
        interval=timedelta(seconds=0.05),
        copies_logs=copies_logs,
        on_stop=stopped.set,
    )
    poller.start()
    return poller, stopped


def asked_for(server: TaskServer) -> list[str]:
    return [request.path.partition("after=")[2] for request in server.requests if request.method == "GET"]


def test_lines_are_written_once_and_in_order_over_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    answers = [answer("one", "two"), AWAY, AWAY, answer("three", first_line=3), SEEN]
    with TaskServer(answers) as server, caplog.at_level(logging.INFO, "task"):
        poller, stopped = follow(server)
        while len(asked_for(server)) < 5:
            threading.Event().wait(0.01)
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
        poller.finish()
        assert asked_for(server)[:3] == ["0", "1", "2"]
    assert [record.getMessage() for record in caplog.records if record.name == "task"] == ["one", "two"]


def test_lines_that_are_in_the_task_log_already_are_not_copied(caplog: pytest.LogCaptureFixture) -> None:
    answers = [answer("one", status_details=JsonText("40")), SEEN]
    with TaskServer(answers) as server, caplog.at_level(logging.INFO, "task"):
        poller, _ = follow(server, copies_logs=False)
        poller.finish()
    said = [record.getMessage() for record in caplog.records if record.name == "task"]
    assert said == ["progress 40%"]


def test_progress_is_logged_once_per_step(caplog: pytest.LogCaptureFixture) -> None:
    steps = [answer(status_details=JsonText(text)) for text in ("1", "1", "2", "2")]
    with TaskServer(steps) as server, caplog.at_level(logging.INFO, "task"):
        poller, _ = follow(server)
        while len(asked_for(server)) < 5:
            threading.Event().wait(0.01)
        poller.finish()
    said = [record.getMessage() for record in caplog.records if record.name == "task"]
    assert said == ["progress 1%", "progress 2%"]


def test_dropped_lines_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with TaskServer([answer("late", first_line=11), SEEN]) as server, caplog.at_level(logging.INFO, "task"):
        poller, _ = follow(server)
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
    with TaskServer([SEEN, refused, SEEN, answer(verb=Verb.STOP)]) as server:
        poller, stopped = follow(server)
        poller.report_launch({"pods": "x" * 1000})
        assert stopped.wait(WAIT_SECONDS)
        poller.finish()
        words = [json.loads(request.body) for request in server.requests if request.method == "POST"]
    assert [word["job"] for word in words] == [{"pods": "x" * 1000}, {}]


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
