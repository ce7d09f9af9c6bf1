# SPDX-License-Identifier: Apache-2.0
"""Limits: whatever one component accepts, the next accepts: output, results, names of any size and script."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast
from urllib.parse import urlsplit

import pytest

from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.protocol.actions import Completion, State
from airflow_asyncaction.protocol.lifecycle import Exit, Launched
from airflow_asyncaction.protocol.reports import MAX_MESSAGE_CHARS
from airflow_asyncaction.protocol.runner_messages import RunnerMessage
from airflow_asyncaction.protocol.tasks import TASK_ID_HEADER, TASK_NONCE_HEADER, TaskView
from airflow_asyncaction.runners.local import LocalRunner
from airflow_asyncaction.runners.service import ServiceRunner
from tests.integration.signed_jobs import SignedJob

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

pytestmark = pytest.mark.integration

NO_PATIENCE = timedelta(0)
LONG_OUTPUT = {
    "a line of 1 MiB": "print('x' * 1_050_000)",
    "a line of two-byte letters": "print('\\u00e9' * 175_000)",
    "20 lines of letters that JSON escapes twice": "for _ in range(20): print('\\U0001f600' * 60_000)",
    "20 lines of control characters": "for _ in range(20): print('\\0\\x1b' * 30_000)",
    "no UTF-8": "import os; os.write(1, b'\\xff' * 1_000_000)",
}


def told(job: SignedJob, message: RunnerMessage) -> TaskView:
    """Send a runner's message once, as a worker does."""
    return TaskHook(job.info.hook_url).send_message(job.task, message, patience=NO_PATIENCE)


def ran(job: SignedJob, *command: str, cwd: str | None = None) -> Exit:
    runner = LocalRunner(
        command=command,
        environ={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "utf-8"},
        cwd=cwd,
        stop_grace=timedelta(seconds=1),
        write_line=lambda _stream, _line: None,
        completion=Completion.EXIT,
    )
    return runner.run(job.info, lambda _: None)


class Counting:
    """A relay to a hook that counts what passes to it."""

    def __init__(self, hook: str) -> None:
        parts = urlsplit(hook)
        self._target = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._relays = ThreadPoolExecutor(20)
        self.hook = f"http://127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self.sent_bytes = 0

    def __enter__(self) -> Self:
        self._relays.submit(self._serve)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._relays.shutdown()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._relays.submit(self._relay, near)

    def _relay(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._target) as far:
            back = self._relays.submit(_pass_on, far, near, lambda _: None)
            _pass_on(near, far, self._count)
            back.result()

    def _count(self, size: int) -> None:
        self.sent_bytes += size


def _pass_on(source: socket.socket, target: socket.socket, count: Callable[[int], None]) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            count(len(data))
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("program", LONG_OUTPUT.values(), ids=LONG_OUTPUT)
def test_output_of_any_length_fails_no_good_job(job: SignedJob, program: str) -> None:
    view = told(job, ran(job, sys.executable, "-c", program))
    assert (view.state, view.error_message) == (State.SUCCESS, None)


def test_a_failed_job_is_explained_by_the_end_of_its_output(job: SignedJob) -> None:
    program = "import sys; print('x' * 1_050_000); print('what went wrong'); sys.exit(3)"
    view = told(job, ran(job, sys.executable, "-c", program))
    assert (view.state, view.error_name) == (State.ERROR, "ExitCode")
    message = view.error_message or ""
    assert message.startswith("The job exited with code 3\nxxx")
    assert message.endswith("xxx\nwhat went wrong")
    assert MAX_MESSAGE_CHARS // 2 < len(message) < MAX_MESSAGE_CHARS


def test_a_message_of_any_length_is_reported(job: SignedJob) -> None:
    view = told(job, Exit(code=1, reason="R" * 10**6, message="\u20ac" * 10**6, tail=["\u20ac" * 10**6] * 20))
    assert view.error_name == "R" * 250
    assert len(view.error_message or "") <= MAX_MESSAGE_CHARS + 1


def test_names_that_are_not_utf_8_are_reported(job: SignedJob, tmp_path: Path) -> None:
    odd = os.fsdecode(b"gone-\xff")
    assert told(job, Launched({"host": odd})).job == '{"host":"gone-?"}'
    view = told(job, ran(job, str(tmp_path / odd)))
    assert (view.state, view.error_name) == (State.ERROR, "CommandNotFound")
    assert "gone-?: No such file or directory" in (view.error_message or "")


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("/status", 1_200_000),
        ("/status", 50_000_000),
        ("/task/message", 6_000_000),
        ("/task/register", 6_000_000),
    ],
)
def test_who_sends_too_much_is_told(job: SignedJob, path: str, size: int) -> None:
    """Also a client that sees no answer before it has sent all."""
    body = b" " * size
    parts = urlsplit(job.info.hook_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    headers = {**job.headers("POST", path, body), TASK_ID_HEADER: job.info.job_id, TASK_NONCE_HEADER: "n"}
    connection.request("POST", parts.path + path, body, headers)
    response = connection.getresponse()
    fields = json.loads(response.read())
    connection.close()
    assert (response.status, fields["error"]) == (413, "too_large")
    assert "[asyncaction] max_body_bytes" in fields["message"]
    assert job.report(status="RUNNING").status == 200


def test_a_callable_that_returns_too_much_succeeds_and_sends_it_once(job: SignedJob) -> None:
    returned = "x" * 50_000_000
    with Counting(job.info.hook_url) as counting:
        runner = ServiceRunner(
            call=lambda _: returned,
            stop_grace=timedelta(seconds=1),
            log=cast("Logger", logging.getLogger("task")),
        )
        exit_ = runner.run(replace(job.info, hook_url=counting.hook), lambda _: None)
    view = told(job, exit_)
    assert (view.state, view.results) == (State.SUCCESS, None)
    assert runner.returned is returned
    assert counting.sent_bytes < len(returned) + 100_000
