# SPDX-License-Identifier: Apache-2.0
"""A callable as a job: against a real server of the protocol, in the main thread and in others."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_asyncaction.job import Job, current_job
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.service import ServiceRunner
from airflow_asyncaction.testing import JobServer, TestedJob

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

log = logging.getLogger("task")


def runner(call: Callable[[Job], Any], *, grace: float = 0.2) -> ServiceRunner:
    return ServiceRunner(call=call, stop_grace=timedelta(seconds=grace), log=cast("Logger", log))


def carried_out(service: ServiceRunner, tested: TestedJob) -> Exit:
    launched: list[dict[str, Any]] = []
    exit_ = service.run(tested.info, lambda job: launched.append(dict(job)))
    assert set(launched[0]) == {"host", "pid"}
    tested.exit(exit_)
    return exit_


@pytest.mark.parametrize("value", [{"rows": 3}, 0, False, "", None])
def test_what_it_returns_is_the_result(tested: TestedJob, value: object) -> None:
    service = runner(lambda _: value)
    assert carried_out(service, tested) == Exit(code=0)
    assert tested.action.state is State.SUCCESS
    assert service.returned is value
    assert tested.action.results is not None


def test_what_is_no_json_is_success_without_results(tested: TestedJob) -> None:
    thing = object()
    service = runner(lambda _: thing)
    carried_out(service, tested)
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, None)
    assert service.returned is thing


def test_what_it_raises_is_the_error_and_is_kept(tested: TestedJob) -> None:
    error = LookupError("no such table")

    def call(_: Job) -> None:
        raise error

    service = runner(call)
    assert carried_out(service, tested).code == 1
    assert (tested.action.state, tested.action.error_name) == (State.ERROR, "LookupError")
    assert tested.action.error_message == "no such table"
    assert service.exception is error


def test_an_awaitable_is_awaited(tested: TestedJob) -> None:
    async def call(_: Job) -> str:
        await asyncio.sleep(0)
        return "awaited"

    service = runner(call)
    carried_out(service, tested)
    assert service.returned == "awaited"


def test_log_lines_and_logging_go_to_the_action_once(
    tested: TestedJob, caplog: pytest.LogCaptureFixture
) -> None:
    def call(job: Job) -> None:
        assert current_job() is job
        job.log("by the job")
        logging.getLogger("mine").warning("by %s", "logging")
        thread = threading.Thread(target=logging.getLogger("mine").warning, args=("by another thread",))
        thread.start()
        thread.join()

    with caplog.at_level(logging.INFO):
        carried_out(runner(call), tested)
    assert [(line.level, line.message) for line in tested.logs] == [
        ("INFO", "by the job"),
        ("WARNING", "by logging"),
    ]
    shown = [record.getMessage() for record in caplog.records]
    assert [shown.count(line) for line in ("by the job", "by logging")] == [1, 1]


def test_it_sees_that_it_is_to_stop(tested: TestedJob) -> None:
    def call(job: Job) -> str:
        tested.stop()
        service.stop()
        assert job.is_stopping()
        return "tidied up"

    service = runner(call, grace=60)
    assert carried_out(service, tested) == Exit(code=0)
    assert (tested.action.state, tested.action.results) == (State.STOPPED, None)


def test_it_is_interrupted_after_the_grace(tested: TestedJob) -> None:
    tidied: list[bool] = []

    def call(job: Job) -> None:
        threading.Thread(target=service.stop).start()
        try:
            time.sleep(60)
        finally:
            tidied.append(job.is_stopping())

    service = runner(call)
    started = time.monotonic()
    assert carried_out(service, tested).reason == "JobInterrupted"
    assert time.monotonic() - started < 50
    assert tidied == [True]
    ended = service.wait()
    assert ended is not None
    assert ended.reason == "JobInterrupted"


def test_a_stop_after_the_end_interrupts_nobody(tested: TestedJob) -> None:
    service = runner(lambda _: 1, grace=0)
    carried_out(service, tested)
    service.stop()
    time.sleep(0.2)  # an interrupt would be raised here


def test_a_stop_before_the_start_is_seen_at_once(tested: TestedJob) -> None:
    service = runner(lambda job: job.is_stopping(), grace=60)
    service.stop()
    carried_out(service, tested)
    assert service.returned is True


def test_it_runs_in_other_threads_too(tested: TestedJob) -> None:
    service = runner(lambda _: threading.current_thread().name)
    thread = threading.Thread(target=carried_out, args=(service, tested), name="other")
    thread.start()
    thread.join()
    assert service.returned == "other"


def test_a_server_that_is_away_does_not_change_what_it_returned(server: JobServer, tested: TestedJob) -> None:
    def call(_: Job) -> int:
        server.go_away()
        threading.Timer(1.0, server.come_back).start()
        return 7

    service = runner(call)
    assert carried_out(service, tested) == Exit(code=0)
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, "7")
