# SPDX-License-Identifier: Apache-2.0
"""ServiceRunner: callables against a real server of the protocol, in the main thread and in others."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from airflow_asyncaction.job import Job, current_job
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import SKIPPED, State
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.reports import Limits
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.runners.service import JobInterrupted, ServiceRunner
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


def test_what_it_raises_keeps_its_traceback(tested: TestedJob) -> None:
    def deep_inside() -> None:
        raise LookupError("no such table")

    service = runner(lambda _: deep_inside())
    carried_out(service, tested)
    assert service.exception is not None
    assert traceback.extract_tb(service.exception.__traceback__)[-1].name == "deep_inside"


@pytest.mark.parametrize(
    ("reason", "said"), [("nothing today", "nothing today"), ("", "AirflowSkipException")]
)
def test_a_callable_that_skips_reports_no_end_and_is_skipped(
    tested: TestedJob, reason: str, said: str
) -> None:
    skip = AirflowSkipException(reason)

    def call(job: Job) -> None:
        job.log("looked")
        raise skip

    service = runner(call)
    assert carried_out(service, tested) == Exit(code=0, message=said, is_skip=True)
    ended = tested.action
    assert (ended.state, ended.error_name, ended.error_message) == (State.STOPPED, SKIPPED, said)
    assert (ended.reported, service.exception) == (None, skip)
    assert [line.message for line in tested.logs] == ["looked"]


@pytest.mark.parametrize("code", [3, 0, None, "no such table"])
def test_leaving_by_sys_exit_is_an_error_and_no_stop(tested: TestedJob, code: Any) -> None:
    service = runner(lambda _: sys.exit(code))
    carried_out(service, tested)
    assert (tested.action.state, tested.action.error_name) == (State.ERROR, "SystemExit")
    assert isinstance(service.exception, SystemExit)
    assert service.exception.code == code


@pytest.mark.parametrize(
    ("end", "state", "error_name", "results"),
    [
        (lambda job: job.result(1), State.SUCCESS, None, "1"),
        (lambda job: job.fail("no", name="Mine"), State.ERROR, "Mine", None),
    ],
    ids=["result", "fail"],
)
def test_an_end_that_it_reports_itself_stands(
    tested: TestedJob,
    end: Callable[[Job], None],
    state: State,
    error_name: str | None,
    results: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its return value, such as None, is not a second end, and causes no warning."""
    caplog.set_level(logging.INFO)
    carried_out(runner(end), tested)
    action = tested.action
    assert (action.state, action.error_name, action.results) == (state, error_name, results)
    levels = [each.levelname for each in caplog.records if "already reported its end" in each.message]
    assert levels == ["INFO"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_interrupt_from_the_keyboard_goes_on(tested: TestedJob) -> None:
    def call(_: Job) -> None:
        raise KeyboardInterrupt

    service = runner(call)
    with pytest.raises(KeyboardInterrupt):
        service.run(tested.info, lambda _: None)
    assert service.wait() == Exit(reason="KeyboardInterrupt", message="")


@pytest.mark.parametrize("require_report", [False, True])
def test_what_is_too_large_for_a_report_is_success_without_results(require_report: bool) -> None:
    text = "x" * 20_000
    with JobServer(limits=Limits(body_bytes=10_000)) as server:
        tested = server.new_job(require_report=require_report)
        service = runner(lambda _: text)
        carried_out(service, tested)
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, None)
    assert service.returned is text


@pytest.mark.parametrize("require_report", [False, True])
def test_what_no_report_can_have_is_success_without_results(require_report: bool) -> None:
    numbers = [1] * (strict_json.MAX_VALUES + 1)
    with JobServer() as server:
        tested = server.new_job(require_report=require_report)
        service = runner(lambda _: numbers)
        carried_out(service, tested)
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, None)
    assert service.returned is numbers


def test_an_exception_in_an_awaitable_is_the_error(tested: TestedJob) -> None:
    async def call(_: Job) -> None:
        await asyncio.sleep(0)
        raise LookupError("no such table")

    service = runner(call)
    carried_out(service, tested)
    assert (tested.action.state, tested.action.error_name) == (State.ERROR, "LookupError")


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


def test_an_exception_that_is_logged_is_in_the_action_with_its_traceback(tested: TestedJob) -> None:
    def call(_: Job) -> None:
        try:
            raise LookupError("no such table")
        except LookupError:
            logging.getLogger("mine").exception("going on without %s", "it")

    carried_out(runner(call), tested)
    (line,) = tested.logs
    assert (line.level, line.message.splitlines()[0]) == ("ERROR", "going on without it")
    assert line.message.endswith("LookupError: no such table")


def test_progress_reaches_the_action(tested: TestedJob) -> None:
    carried_out(runner(lambda job: job.progress(40, "loading")), tested)
    assert tested.action.status_details is not None
    assert json.loads(tested.action.status_details) == {"progress": 40, "message": "loading"}


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
    assert carried_out(service, tested).reason == "JobInterrupted"
    assert tidied == [True]
    ended = service.wait()
    assert ended is not None
    assert ended.reason == "JobInterrupted"


def test_one_that_ignores_the_interrupt_has_stopped_when_it_returns(tested: TestedJob) -> None:
    interrupted: list[BaseException] = []

    def call(_: Job) -> str:
        tested.stop()
        service.stop()
        try:
            time.sleep(60)
        except BaseException as error:  # noqa: BLE001 - what such a callable does
            interrupted.append(error)
        return "went on all the same"

    service = runner(call)
    carried_out(service, tested)
    assert [type(error) for error in interrupted] == [JobInterrupted]
    assert (tested.action.state, tested.action.results) == (State.STOPPED, None)


def test_an_awaitable_is_interrupted_and_may_tidy_up(tested: TestedJob) -> None:
    tidied: list[bool] = []

    async def call(job: Job) -> None:
        threading.Thread(target=service.stop).start()
        try:
            await asyncio.sleep(60)
        finally:
            tidied.append(job.is_stopping())

    service = runner(call)
    assert carried_out(service, tested).reason == "JobInterrupted"
    assert tidied == [True]


def test_one_that_ends_within_the_grace_is_not_interrupted(tested: TestedJob) -> None:
    def call(job: Job) -> str:
        threading.Thread(target=service.stop).start()
        deadline = time.monotonic() + 50
        while not job.is_stopping() and time.monotonic() < deadline:
            time.sleep(0.01)
        return "ended by itself"

    service = runner(call, grace=60)
    assert carried_out(service, tested) == Exit(code=0)
    assert service.returned == "ended by itself"


def test_it_has_not_ended_before_it_was_run(tested: TestedJob) -> None:
    service = runner(lambda _: 1)
    assert service.wait() is None
    carried_out(service, tested)
    assert service.wait() == Exit(code=0)


def test_a_stop_before_the_start_interrupts_one_that_does_not_look(tested: TestedJob) -> None:
    service = runner(lambda _: time.sleep(60))
    service.stop()
    assert carried_out(service, tested).reason == "JobInterrupted"


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


def test_an_outage_does_not_change_the_results(server: JobServer, tested: TestedJob) -> None:
    def call(_: Job) -> int:
        server.go_away()
        threading.Timer(1.0, server.come_back).start()
        return 7

    service = runner(call)
    assert carried_out(service, tested) == Exit(code=0)
    assert (tested.action.state, tested.action.results) == (State.SUCCESS, "7")


def test_nothing_that_airflow_masks_leaves_the_process(
    tested: TestedJob, caplog: pytest.LogCaptureFixture, mask: Callable[[str], None]
) -> None:
    def call(job: Job) -> None:
        mask("the password")  # as a connection does that is read only now
        assert job.arguments == {"x": "the password"}
        job.progress(5, "with the password")
        job.log("by the job: the password")
        logging.getLogger("mine").warning("by logging: %s", "the password")
        job.flush()
        job.fail("no the password", "not the password")

    tested.info = replace(tested.info, arguments=JsonText('{"x": "the password"}'))
    with caplog.at_level(logging.INFO):
        carried_out(runner(call), tested)
    assert [line.message for line in tested.logs] == ["by the job: ***", "by logging: ***"]
    assert tested.action.status_details == '{"progress":5,"message":"with ***"}'
    assert (tested.action.error_name, tested.action.error_message) == ("not ***", "no ***")


def test_the_result_is_masked_in_the_report_and_true_in_the_task(
    tested: TestedJob, mask: Callable[[str], None]
) -> None:
    mask("the password")
    service = runner(lambda _: {"dsn": ("the password", 1), "the password": None})
    carried_out(service, tested)
    assert tested.action.results == '{"dsn":["***",1],"***":null}'
    assert service.returned == {"dsn": ("the password", 1), "the password": None}


def test_what_it_raises_is_masked_in_the_report_and_true_in_the_task(
    tested: TestedJob, mask: Callable[[str], None]
) -> None:
    mask("the password")

    def call(_: Job) -> None:
        raise LookupError("no the password")

    service = runner(call)
    carried_out(service, tested)
    assert (tested.action.error_name, tested.action.error_message) == ("LookupError", "no ***")
    assert str(service.exception) == "no the password"
