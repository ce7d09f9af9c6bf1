# SPDX-License-Identifier: Apache-2.0
"""Lifecycle: each row of the tables in PROTOCOL.md, and invariants for any order of messages."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction import protocol
from airflow_asyncaction.protocol.actions import (
    SKIPPED,
    Action,
    Completion,
    ExpiredTimeout,
    State,
    StopReason,
    Verb,
    action_to_json,
    find_expired_timeout,
)
from airflow_asyncaction.protocol.decisions import Accepted, Duplicate, EarlierReport, Refused
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Launched, Message, Stop, Supersede, decide
from airflow_asyncaction.protocol.reports import (
    MAX_MESSAGE_CHARS,
    Limits,
    Report,
    ReportedStatus,
    parse_report,
)
from airflow_asyncaction.protocol.strict_json import JsonText

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=100)
RUNNING = Report(status=ReportedStatus.RUNNING)
SUCCESS = Report(status=ReportedStatus.SUCCESS, results=JsonText("0"))
ERROR = Report(status=ReportedStatus.ERROR, error_name="Mine", error_message="my words")
ENDS: list[dict[str, Any]] = json.loads((files(protocol) / "vectors/ends.json").read_text())
KILLED = Exit(signal="SIGKILL", tail=["last words"])


def action(**fields: Any) -> Action:
    return Action(id=JobId("j"), type="t", attempt=1, created_at=NOW, **fields)


def after(start: Action, *messages: Message) -> Action:
    """Apply messages, all of which must be accepted."""
    for message in messages:
        decision = decide(start, message, NOW)
        assert isinstance(decision, Accepted)
        start = decision.action
    return start


def refusal(start: Action, message: Message) -> str:
    decision = decide(start, message, NOW)
    assert isinstance(decision, Refused)
    return decision.code


def test_success_and_exit_0_is_success_with_results() -> None:
    end = after(action(), RUNNING, SUCCESS, Exit(code=0))
    assert (end.state, end.results, end.error_name) == (State.SUCCESS, "0", None)
    assert end.is_done


@pytest.mark.parametrize(
    "exit_", [Exit(code=1), KILLED, Exit(code=0, reason="Evicted"), Exit(reason="OOMKilled")]
)
def test_success_and_another_exit_is_a_mismatch(exit_: Exit) -> None:
    end = after(action(), SUCCESS, exit_)
    assert (end.state, end.error_name) == (State.ERROR, "ExitCodeMismatch")


def test_a_report_stands_if_the_exit_was_not_seen() -> None:
    gone = Exit(reason="PodDeleted", message="it is gone", is_seen=False)
    end = after(action(), SUCCESS, gone)
    assert (end.state, end.is_done) == (State.SUCCESS, True)
    end = after(action(), RUNNING, gone)
    assert (end.state, end.error_name, end.error_message) == (State.ERROR, "PodDeleted", "it is gone")
    end = after(action(completion=Completion.REPORT), RUNNING, gone)
    assert (end.state, end.is_done) == (State.RUNNING, False)


@pytest.mark.parametrize("exit_", [Exit(code=0), Exit(code=1), KILLED, Exit(reason="OOMKilled")])
def test_error_and_any_exit_is_the_jobs_error(exit_: Exit) -> None:
    end = after(action(), ERROR, exit_)
    assert (end.state, end.error_name, end.error_message) == (State.ERROR, "Mine", "my words")


def test_no_report_and_exit_0_is_success() -> None:
    assert after(action(), Exit(code=0)).state is State.SUCCESS


def test_no_report_and_exit_0_is_no_report_where_one_is_required() -> None:
    end = after(action(require_report=True), RUNNING, Exit(code=0))
    assert (end.state, end.error_name) == (State.ERROR, "NoReport")


@pytest.mark.parametrize(
    ("exit_", "name"),
    [
        (Exit(code=3), "ExitCode"),
        (KILLED, "Signal"),
        (Exit(code=137, signal="SIGKILL", reason="OOMKilled"), "OOMKilled"),
        (Exit(reason="Evicted"), "Evicted"),
        (Exit(reason="ImagePull"), "ImagePull"),
    ],
)
def test_no_report_and_another_exit_is_named_for_it(exit_: Exit, name: str) -> None:
    end = after(action(), RUNNING, replace(exit_, tail=["first", "last"]))
    assert (end.state, end.error_name) == (State.ERROR, name)
    assert (end.error_message or "").endswith("first\nlast")


@pytest.mark.parametrize(
    ("exit_", "text"),
    [
        (Exit(code=12, message="bad input"), "The job exited with code 12: bad input\nlast"),
        (
            Exit(code=143, signal="SIGTERM", message="bye"),
            "The job was killed by SIGTERM: bye\nlast",
        ),
        (Exit(code=12), "The job exited with code 12\nlast"),
        (Exit(code=137, reason="OOMKilled", message="too much"), "too much\nlast"),
    ],
)
def test_a_message_follows_the_exit_code_and_does_not_replace_it(exit_: Exit, text: str) -> None:
    for start in (action(), after(action(), SUCCESS)):
        assert after(start, replace(exit_, tail=["last"])).error_message == text


def test_only_the_last_20_lines_explain() -> None:
    end = after(action(), Exit(code=1, tail=[f"line {i}" for i in range(30)]))
    assert "line 10\n" in (end.error_message or "")
    assert "line 9\n" not in (end.error_message or "")


def test_a_job_that_reports_its_end_is_awaited_until_its_exit() -> None:
    assert not after(action(), SUCCESS).is_done
    assert after(action(completion=Completion.REPORT), SUCCESS).is_done


def test_where_the_report_is_the_end_a_clean_exit_is_not() -> None:
    submitted = after(action(completion=Completion.REPORT), Launched({"pid": 1}), Exit(code=0))
    assert submitted.state is State.RUNNING
    assert after(submitted, RUNNING, ERROR).state is State.ERROR
    failed = after(action(completion=Completion.REPORT), Exit(code=1))
    assert (failed.state, failed.error_name) == (State.ERROR, "ExitCode")


@pytest.mark.parametrize("message", [RUNNING, Report(), Launched({"pid": 1})])
def test_first_sign_of_life_makes_it_running(message: Message) -> None:
    running = after(action(), message)
    assert running.state is State.RUNNING
    assert running.started_at == NOW


def test_later_news_add_to_earlier() -> None:
    first = Report(status_details=JsonText("1"), agent=JsonText("{}"))
    running = after(action(), first, Report(status_details=JsonText("2")))
    assert (running.status_details, running.agent) == ("2", "{}")


def test_an_error_without_a_name_gets_one() -> None:
    assert after(action(), Report(status=ReportedStatus.ERROR)).error_name == "JobError"


def test_after_the_end() -> None:
    end = after(action(), SUCCESS)
    assert after(end, SUCCESS) == end
    assert refusal(end, ERROR) == "already_ended"
    assert after(end, RUNNING) == end
    assert after(end, Report()) == end
    assert after(after(end, Exit(code=0)), Exit(code=1)).state is State.SUCCESS


@pytest.mark.parametrize("vector", ENDS, ids=lambda vector: vector["name"])
@pytest.mark.parametrize("exit_", [None, Exit(code=0)])
def test_a_second_end_is_refused_if_it_differs(vector: dict[str, Any], exit_: Exit | None) -> None:
    first, second = (
        parse_report(json.dumps(vector[name]).encode(), Limits()) for name in ("first", "second")
    )
    end = after(action(accept_v1=False), first, *([exit_] if exit_ else []))
    assert after(end, first) == end
    if vector["answer"] == 200:
        assert after(end, second) == end
    else:
        assert refusal(end, second) == "already_ended"


def test_a_job_that_only_knows_v1_may_end_twice() -> None:
    end = after(action(), SUCCESS)
    assert after(end, replace(SUCCESS, results=JsonText("1"))) == end
    assert refusal(end, ERROR) == "already_ended"


def test_a_repeated_end_of_a_stopped_job_is_accepted() -> None:
    report = Report(status=ReportedStatus.ERROR)
    end = after(action(accept_v1=False), Stop(StopReason.REQUESTED), report)
    assert after(end, report, Exit(code=1), report).error_name == "Requested"


@pytest.mark.parametrize("message", [Supersede(), Abandon(), ExpiredTimeout("HeartbeatTimeout", "late")])
@pytest.mark.parametrize("report", [Report(), RUNNING, SUCCESS, ERROR])
def test_an_action_that_airflow_ended_is_superseded(message: Message, report: Report) -> None:
    end = after(action(), RUNNING, message)
    assert end.is_done
    assert refusal(end, report) == "superseded"


def test_supersede_after_an_end_keeps_it_and_shuts_the_job_out() -> None:
    end = after(action(), SUCCESS, Supersede())
    assert end.state is State.SUCCESS
    assert refusal(end, SUCCESS) == "superseded"


@pytest.mark.parametrize("exit_", [Exit(code=0), Exit(code=143), Exit(signal="SIGTERM")])
def test_a_job_is_asked_to_stop_and_its_exit_is_the_end(exit_: Exit) -> None:
    stopping = after(action(), RUNNING, Stop(StopReason.REQUESTED))
    assert stopping.state is State.RUNNING
    assert action_to_json(stopping, now=NOW)["action"] == "STOP"
    end = after(stopping, exit_)
    assert (end.state, end.error_name) == (State.STOPPED, "Requested")
    assert action_to_json(end, now=NOW)["action"] is None


def test_a_job_that_fails_after_a_stop_request_was_stopped() -> None:
    report = Report(status=ReportedStatus.ERROR, error_name="Cancelled", error_message="tidied up")
    end = after(action(), RUNNING, Stop(StopReason.REQUESTED), report, Exit(code=1))
    assert (end.state, end.error_name, end.error_message) == (State.STOPPED, "Cancelled", "tidied up")
    assert end.is_done
    assert isinstance(decide(end, report, NOW), Accepted)
    assert isinstance(decide(end, Report(status=ReportedStatus.SUCCESS), NOW), Refused)


def test_an_execution_timeout_takes_precedence_over_a_reported_error() -> None:
    end = after(action(), Stop(StopReason.EXECUTION_TIMEOUT), Report(status=ReportedStatus.ERROR))
    assert (end.state, end.error_name) == (State.TIMEOUT, "ExecutionTimeout")


def test_success_clears_an_earlier_error() -> None:
    report = Report(status=ReportedStatus.RUNNING, error_name="Flaky", error_message="once")
    end = after(action(), report, Report(status=ReportedStatus.SUCCESS), Exit(code=0))
    assert (end.state, end.error_name, end.error_message) == (State.SUCCESS, None, None)


def test_a_job_that_succeeds_after_a_stop_request_has_succeeded() -> None:
    assert after(action(), Stop(StopReason.KILLED), SUCCESS, Exit(code=0)).state is State.SUCCESS


SKIP = Exit(code=99, is_skip=True)
WRAPPED = Report(status=ReportedStatus.ERROR, error_name="ExitCode", error_message="exited with code 99")


@pytest.mark.parametrize("reports", [(), (RUNNING,), (SUCCESS,), (WRAPPED,), (RUNNING, SUCCESS)], ids=len)
@pytest.mark.parametrize("fields", [{}, {"require_report": True}])
def test_a_job_that_skips_itself_ends_as_stopped(reports: tuple[Report, ...], fields: dict[str, Any]) -> None:
    end = after(action(**fields), *reports, SKIP)
    assert (end.state, end.error_name, end.is_done) == (State.STOPPED, SKIPPED, True)
    assert end.error_message == "The job exited with code 99, which skips the task"


def test_a_skip_has_a_reason_if_it_is_known() -> None:
    end = after(action(), Exit(code=0, message="nothing today", is_skip=True))
    assert (end.state, end.error_name, end.error_message) == (State.STOPPED, SKIPPED, "nothing today")


def test_a_command_that_was_to_submit_work_may_skip_it_instead() -> None:
    submits = action(completion=Completion.REPORT)
    assert after(submits, RUNNING, SKIP).error_name == SKIPPED
    assert after(submits, SUCCESS, SKIP).state is State.SUCCESS


@pytest.mark.parametrize(
    ("before", "end"),
    [
        ((ERROR,), (State.ERROR, "Mine")),
        ((Stop(StopReason.REQUESTED),), (State.STOPPED, "Requested")),
        ((Stop(StopReason.EXECUTION_TIMEOUT),), (State.TIMEOUT, "ExecutionTimeout")),
        ((SUCCESS, Stop(StopReason.KILLED)), (State.SUCCESS, None)),
        ((ExpiredTimeout("HeartbeatTimeout", ""),), (State.TIMEOUT, "HeartbeatTimeout")),
        ((Supersede(),), (State.STOPPED, "Superseded")),
    ],
    ids=str,
)
def test_a_skip_does_not_override_other_ends(
    before: tuple[Message, ...], end: tuple[State, str | None]
) -> None:
    now = after(action(), *before, SKIP)
    assert (now.state, now.error_name) == end


def test_a_report_cannot_make_a_stopped_job_skipped() -> None:
    said = Report(status=ReportedStatus.ERROR, error_name=SKIPPED)
    assert after(action(), said).state is State.ERROR
    assert after(action(), Stop(StopReason.REQUESTED), said).error_name == "Requested"


@pytest.mark.parametrize(
    ("exit_", "said"),
    [
        (Exit(code=0), "The job was asked to stop, and did"),
        (Exit(signal="SIGTERM"), "The job was asked to stop, and did"),
        (Exit(code=143, signal="SIGTERM"), "The job was asked to stop, and did"),
        (KILLED, "The job was asked to stop, and was killed by SIGKILL"),
        (Exit(code=137, signal="SIGKILL"), "The job was asked to stop, and was killed by SIGKILL"),
        (Exit(signal="SIGSEGV"), "The job was asked to stop, and was killed by SIGSEGV"),
        (Exit(code=3), "The job was asked to stop, and exited with code 3"),
        (
            Exit(code=137, reason="OOMKilled", message="too much memory"),
            "The job was asked to stop, and ended with OOMKilled: too much memory",
        ),
        (Exit(reason="NotEnded"), "The job was asked to stop, and ended with NotEnded"),
        (Exit(reason="Stopped", message="It was not started"), "It was not started"),
    ],
)
def test_the_end_of_a_stopped_job_is_described(exit_: Exit, said: str) -> None:
    end = after(action(), Stop(StopReason.KILLED), exit_)
    assert (end.state, end.error_name, end.error_message) == (State.STOPPED, "Killed", said)


STOP = Stop(StopReason.REQUESTED)
EXITS = (
    Exit(code=0),
    Exit(code=3),
    Exit(signal="SIGTERM"),
    Exit(reason="PodDeleted", message="gone", is_seen=False),
)
STOPPED, DONE = (State.STOPPED, "Requested"), (State.SUCCESS, None)
MINE, MISMATCH = (State.ERROR, "Mine"), (State.ERROR, "ExitCodeMismatch")
OF_THE_EXIT = (DONE, (State.ERROR, "ExitCode"), (State.ERROR, "Signal"), (State.ERROR, "PodDeleted"))
EXIT = "exit"  # stands for each of EXITS
# Every order of a stop, the job's terminal report, and its exit; the ends are those of EXITS.
STOP_ORDERS: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = [
    ((STOP, EXIT), (STOPPED,) * 4),
    ((EXIT, STOP), OF_THE_EXIT),
    ((STOP, SUCCESS, EXIT), (DONE,) * 4),
    ((SUCCESS, STOP, EXIT), (DONE,) * 4),
    ((SUCCESS, EXIT, STOP), (DONE, MISMATCH, MISMATCH, DONE)),
    ((STOP, EXIT, SUCCESS), (STOPPED,) * 4),
    ((EXIT, STOP, SUCCESS), OF_THE_EXIT),
    ((EXIT, SUCCESS, STOP), OF_THE_EXIT),
    ((STOP, ERROR, EXIT), ((State.STOPPED, "Mine"),) * 4),
    ((ERROR, STOP, EXIT), (MINE,) * 4),
    ((ERROR, EXIT, STOP), (MINE,) * 4),
    ((STOP, EXIT, ERROR), (STOPPED,) * 4),
    ((EXIT, STOP, ERROR), OF_THE_EXIT),
    ((EXIT, ERROR, STOP), OF_THE_EXIT),
]


def test_the_orders_of_a_stop_are_all_there_are() -> None:
    orders = [order for order, _ in STOP_ORDERS]
    for report in ([], [SUCCESS], [ERROR]):
        assert all(order in orders for order in permutations((STOP, EXIT, *report)))
    assert len(orders) == 2 + 6 + 6


@pytest.mark.parametrize(("order", "ends"), STOP_ORDERS, ids=str)
@pytest.mark.parametrize("number", range(len(EXITS)), ids=["0", "code", "our signal", "unseen"])
def test_a_stop_the_jobs_end_and_its_exit_in_any_order(
    order: tuple[Any, ...], ends: tuple[Any, ...], number: int
) -> None:
    now = after(action(), Launched({"pid": 1}))
    for message in order:
        decision = decide(now, EXITS[number] if message is EXIT else message, NOW)
        now = decision.action if isinstance(decision, Accepted) else now
    assert (now.state, now.error_name, now.is_done) == (*ends[number], True)


def test_a_stop_after_a_reported_end_sets_no_verb() -> None:
    stopped = after(action(), SUCCESS, STOP)
    assert (stopped.state, stopped.verb, stopped.is_done) == (State.SUCCESS, None, False)
    for start in (after(action(), ERROR), after(action(completion=Completion.REPORT), SUCCESS)):
        assert after(start, STOP) == start


def test_the_first_reason_to_stop_counts() -> None:
    stopping = after(action(), Stop(StopReason.EXECUTION_TIMEOUT), Stop(StopReason.KILLED))
    end = after(stopping, Exit(signal="SIGTERM"))
    assert (end.state, end.error_name) == (State.TIMEOUT, "ExecutionTimeout")


def test_a_clock_that_ran_out_ends_it_and_stops_the_job() -> None:
    end = after(action(), ExpiredTimeout("JobNeverStarted", "did not start"))
    assert (end.state, end.error_name, end.verb) == (State.TIMEOUT, "JobNeverStarted", Verb.STOP)


def overdue_name(start: Action) -> str | None:
    timeout = find_expired_timeout(start, LATER)
    return None if timeout is None else timeout.name


def test_start_clock() -> None:
    short, long = timedelta(seconds=99), timedelta(seconds=100)
    assert overdue_name(action(start_timeout=short)) == "JobNeverStarted"
    assert overdue_name(action(start_timeout=long)) is None
    launched = after(action(start_timeout=short), Launched({}))
    assert overdue_name(launched) is None
    assert overdue_name(replace(launched, require_report=True)) == "JobNeverStarted"
    assert overdue_name(replace(launched, completion=Completion.REPORT)) == "JobNeverStarted"
    assert overdue_name(after(replace(launched, require_report=True), Report())) is None


def test_start_timeout_names_what_was_missed() -> None:
    waiting = action(start_timeout=timedelta(seconds=99), require_report=True)
    started = after(waiting, Launched({}))
    said = [timeout.message for one in (waiting, started) if (timeout := find_expired_timeout(one, LATER))]
    assert said == ["The job did not start within 99 s", "The job did not report within 99 s"]


def test_heartbeat_clock_counts_from_the_last_report_or_the_start() -> None:
    waiting = action(heartbeat_timeout=timedelta(seconds=99))
    assert overdue_name(waiting) is None
    assert overdue_name(after(waiting, Launched({}))) == "HeartbeatTimeout"
    assert overdue_name(after(waiting, Report())) == "HeartbeatTimeout"
    assert overdue_name(replace(waiting, started_at=NOW, last_report_at=LATER)) is None


def test_no_clock_runs_after_the_end() -> None:
    ended = after(action(start_timeout=timedelta(), heartbeat_timeout=timedelta()), SUCCESS)
    assert find_expired_timeout(ended, LATER) is None


def test_replays() -> None:
    accepted = EarlierReport("digest", None)
    assert decide(action(), SUCCESS, NOW, earlier=accepted, body_sha256="digest") == Duplicate()
    reused = decide(action(), SUCCESS, NOW, earlier=accepted, body_sha256="other")
    assert isinstance(reused, Refused)
    assert (reused.code, reused.repeated) == ("nonce_reused", False)
    refused = EarlierReport("digest", "already_ended")
    again = decide(action(), SUCCESS, NOW, earlier=refused, body_sha256="digest")
    assert isinstance(again, Refused)
    assert (again.code, again.repeated) == ("already_ended", True)


def test_the_response_contains_only_permitted_fields() -> None:
    told = action_to_json(after(action(), replace(SUCCESS, status_details=JsonText("1"))), now=NOW)
    assert set(told) == {
        *("uuid", "type", "status", "action", "arguments", "serviceName", "method", "results"),
        *("errorMessage", "errorName", "job", "attempt", "lastJobUpdate", "serverTime"),
    }
    assert told["results"] == 0
    assert told["serverTime"] == int(NOW.timestamp() * 1000)


texts = st.text(max_size=20)
json_texts = st.integers(0, 9).map(lambda number: JsonText(str(number)))
messages = st.one_of(
    st.builds(
        Report,
        status=st.none() | st.sampled_from(ReportedStatus),
        status_details=st.none() | json_texts,
        results=st.none() | json_texts,
        error_name=st.none() | texts | st.sampled_from([SKIPPED, "ExitCode"]),
        error_message=st.none() | texts,
    ),
    st.builds(Launched, st.dictionaries(texts, st.none() | texts | st.integers())),
    st.builds(
        Exit,
        code=st.none() | st.integers(0, 255),
        signal=st.none() | st.just("SIGKILL"),
        reason=st.none() | st.sampled_from(["OOMKilled", "Evicted", "x" * 999]),
        message=st.none() | texts | st.just("m" * 99_999),
        tail=st.lists(texts | st.just("t" * 99_999), max_size=3),
        is_skip=st.booleans(),
    ),
    st.builds(Stop, st.sampled_from(StopReason)),
    st.just(Abandon()),
    st.just(Supersede()),
    st.builds(ExpiredTimeout, st.sampled_from(["JobNeverStarted", "HeartbeatTimeout"]), texts),
)
starts = st.builds(
    action,
    state=st.sampled_from([State.SCHEDULED, State.QUEUED, State.STARTING]),
    completion=st.sampled_from(Completion),
    require_report=st.booleans(),
    start_timeout=st.none() | st.just(timedelta(seconds=1)),
    heartbeat_timeout=st.none() | st.just(timedelta(seconds=1)),
)


def check_step(before: Action, message: Message, now: Action) -> None:
    if before.state.is_end and now.state is not before.state:
        assert isinstance(message, Exit)
        assert before.stop_reason is None
        if message.is_skip:
            assert before.state is State.SUCCESS or before.error_name == "ExitCode"
            assert (now.state, now.error_name) == (State.STOPPED, SKIPPED)
        else:
            assert (before.state, now.state) == (State.SUCCESS, State.ERROR)
            assert now.error_name == "ExitCodeMismatch"
    if (now.state, now.error_name) == (State.STOPPED, SKIPPED) and not before.state.is_end:
        assert isinstance(message, Exit)
        assert message.is_skip
    assert not (before.fenced and not now.fenced)
    assert not (before.is_done and not now.is_done)
    assert before.exit is None or now.exit == before.exit
    assert before.stop_reason is None or now.stop_reason is before.stop_reason
    assert now.state.is_end == (now.ended_at is not None)
    assert len(now.error_message or "") <= MAX_MESSAGE_CHARS + 1
    json.dumps(action_to_json(now, now=NOW), allow_nan=False)
    find_expired_timeout(now, LATER)


@given(starts, st.lists(messages, max_size=8))
def test_invariants_of_any_life(start: Action, life: list[Message]) -> None:
    for message in life:
        decision = decide(start, message, NOW)
        if isinstance(decision, Accepted):
            check_step(start, message, decision.action)
            start = decision.action
        else:
            assert isinstance(decision, Refused)
            assert isinstance(message, Report)
            assert start.state.is_end


@given(starts, st.lists(messages, max_size=8))
def test_an_exit_ends_any_life_whose_end_is_the_exit(start: Action, life: list[Message]) -> None:
    start = replace(start, completion=Completion.EXIT)
    for message in [*life, Exit(code=0)]:
        decision = decide(start, message, NOW)
        start = decision.action if isinstance(decision, Accepted) else start
    assert start.is_done
