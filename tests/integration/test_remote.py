# SPDX-License-Identifier: Apache-2.0
"""Remote operator and trigger, against a real HTTP server with the user routes."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferralError,
    TaskDeferralTimeout,
    TaskDeferred,
)
from airflow.sdk.execution_time.timeout import timeout
from structlog.testing import capture_logs

from airflow_asyncaction import settings
from airflow_asyncaction.exceptions import (
    ActionEnded,
    ActionFailed,
    ActionStopped,
    ActionTimedOut,
    HeartbeatTimeout,
    OOMKilled,
    ServerError,
    Skipped,
)
from airflow_asyncaction.hooks import remote_client
from airflow_asyncaction.hooks.remote_api import UNVERIFIED
from airflow_asyncaction.operators.remote import RemoteActionOperator
from airflow_asyncaction.protocol.tasks import RESULTS_CHANGED
from airflow_asyncaction.triggers import remote_follower
from airflow_asyncaction.triggers.remote import RemoteActionTrigger
from tests.unit.live_processes import eventually
from tests.unit.remote_deployment import PASSWORD, Remote, RemoteDeployment, certify, refused
from tests.unit.task_server import Answer, Request

pytestmark = pytest.mark.integration

DAYS = {"days": ["monday"]}
Does = Callable[[Remote], None]
Serve = Callable[[Does], RemoteDeployment]


class Task:
    """What Airflow gives to an operator: a task instance that keeps what is pushed, and a state store."""

    def __init__(self, store: dict[str, Any] | None = None) -> None:
        self.id = uuid.uuid4()
        self.start_date = datetime.now(UTC)
        self.xcoms: dict[str, Any] = {}
        self.store = _Store() if store is None else _Store(store)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    @property
    def context(self) -> dict[str, Any]:
        return {"ti": self, "task_state_store": self.store}

    def next_try(self) -> Task:
        return Task(self.store)


class _Store(dict[str, Any]):
    def set(self, key: str, value: Any) -> None:
        self[key] = json.loads(json.dumps(value))

    def delete(self, key: str) -> None:
        self.pop(key, None)


PATIENCE_SECONDS = 60

interrupts = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""A signal handler raises in the middle of anything, such as opening a socket, which Python then closes."""


def looks(remote: RemoteDeployment) -> list[Request]:
    """Return the requests for what is new about an action."""
    return remote.seen("GET", "/async/actions/.*/changes")


def looked(remote: RemoteDeployment, times: int = 1) -> Callable[[], bool]:
    return lambda: len(looks(remote)) >= times


def once(is_so: Callable[[], object], do: Callable[[], object]) -> None:
    """Call a function in another thread as soon as a condition holds."""

    def wait() -> None:
        eventually(is_so)
        do()

    threading.Thread(target=wait, daemon=True).start()


def run_out_of_time() -> None:
    """Have Airflow's ``timeout`` end now."""
    os.kill(os.getpid(), signal.SIGALRM)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Return how to serve a deployment whose actions do something once they are launched."""
    running: list[RemoteDeployment] = []

    def start(does: Does) -> RemoteDeployment:
        def launched(action: Remote) -> None:
            threading.Thread(target=does, args=(action,), daemon=True).start()

        remote = RemoteDeployment(on_launch=launched).__enter__()
        running.append(remote)
        monkeypatch.setenv("AIRFLOW_CONN_THERE", remote.connection())
        return remote

    yield start
    for remote in running:
        remote.__exit__()


@pytest.fixture(autouse=True)
def settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let deferred tasks be resumed after a second."""
    import_module("airflow.sdk.execution_time.supervisor")  # it reads the option when it is imported
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "-4")


def operator(**parameters: Any) -> RemoteActionOperator:
    return RemoteActionOperator(
        **{
            "task_id": "load",
            "operation": "etl.load",
            "arguments": DAYS,
            "asyncaction_conn_id": "there",
            "poll_interval": 0.05,
            "deferrable": False,
            **parameters,
        }
    )


def succeed(action: Remote) -> None:
    action.status = "RUNNING"
    action.say("first line")
    action.more.update(progress=40, message="loading")
    time.sleep(0.2)
    action.say("second line", level="WARNING", time_ms=1_700_000_000_000)
    action.say(*(f"line {number}" for number in range(3, 12)))
    action.end(results={"rows": 0})


def run_on(_: Remote) -> None:
    """Do nothing."""


def test_the_results_of_the_operation_are_the_tasks(serve: Serve) -> None:
    remote, task = serve(succeed), Task()
    with capture_logs() as logged:
        assert operator().execute(task.context) == {"rows": 0}
    assert task.xcoms == {"action_id": remote.action().uuid}
    assert remote.action().arguments == DAYS
    events = [entry["event"] for entry in logged]
    lines = ["first line", "second line", *(f"line {number}" for number in range(3, 12))]
    assert [event for event in events if event in lines] == lines
    assert "progress 40%: loading" in events
    (second,) = (entry for entry in logged if entry["event"] == "second line")
    assert (second["log_level"], second["timestamp"]) == ("warning", "2023-11-14T22:13:20.000000Z")


@pytest.mark.parametrize("results", [0, False, "", None, [], {"__type": "set", "__var": [1]}])
def test_no_result_is_lost_or_made_an_object(serve: Serve, results: Any) -> None:
    serve(lambda action: action.end(results=results))
    result = operator().execute(Task().context)
    expected = json.dumps(results, separators=(",", ":")) if isinstance(results, dict) else results
    assert (result, type(result)) == (expected, type(expected))


def test_results_that_an_xcom_cannot_hold_are_text_and_the_task_log_says_so(serve: Serve) -> None:
    serve(lambda action: action.end(results=["a\0b", 2**70, 3]))
    with capture_logs() as logged:
        assert operator().execute(Task().context) == ['"a\\u0000b"', str(2**70), 3]
    assert [entry["log_level"] for entry in logged if entry["event"] == RESULTS_CHANGED] == ["warning"]


@pytest.mark.parametrize(
    ("status", "name", "kind"),
    [
        ("ERROR", "ValueError", ActionFailed),
        ("ERROR", "OOMKilled", OOMKilled),
        ("ERROR", None, ActionFailed),
        ("TIMEOUT", "HeartbeatTimeout", HeartbeatTimeout),
        ("TIMEOUT", "TimeoutError", ActionTimedOut),
        ("STOPPED", "Killed", ActionStopped),
    ],
)
def test_an_end_is_raised_as_that_of_an_action_here(
    serve: Serve, status: str, name: str | None, kind: type[ActionEnded]
) -> None:
    serve(lambda action: action.end(status, errorName=name, errorMessage="it broke"))
    with pytest.raises(ActionEnded, match="it broke") as raised:
        operator().execute(Task().context)
    assert type(raised.value) is kind
    assert raised.value.error_name == (name or "ActionFailed")


def test_a_task_is_skipped_with_its_operation(serve: Serve) -> None:
    serve(lambda action: action.end("STOPPED", errorName="Skipped", errorMessage="nothing today"))
    with pytest.raises(AirflowSkipException, match="nothing today") as raised:
        operator().execute(Task().context)
    assert isinstance(raised.value, Skipped)


def test_who_stops_an_action_there_wants_no_retry(serve: Serve) -> None:
    remote = serve(lambda action: action.end("STOPPED", stopReason="Requested", errorName="Requested"))
    with pytest.raises(AirflowFailException, match="Requested") as raised:
        operator().execute(Task().context)
    assert isinstance(raised.value, ActionStopped)
    assert (raised.value.action_id, raised.value.error_name) == (remote.action().uuid, "Requested")


def test_results_that_may_not_be_seen_are_an_error_not_nothing(serve: Serve) -> None:
    serve(lambda action: action.end(canSeeResults=False, hasResults=True))
    with pytest.raises(ServerError, match="may not read the results"):
        operator().execute(Task().context)


def test_logs_need_not_be_copied(serve: Serve) -> None:
    serve(succeed)
    with capture_logs() as logged:
        operator(copies_logs=False).execute(Task().context)
    events = [entry["event"] for entry in logged]
    assert "first line" not in events
    assert "progress 40%: loading" in events


def test_a_task_need_not_wait(serve: Serve) -> None:
    remote, task = serve(run_on), Task()
    at = "2027-01-01T05:00:00Z"
    assert operator(wait_for_completion=False, schedule=at).execute(task.context) == remote.action().uuid
    assert remote.action().status == "SCHEDULED"
    assert task.store == {}


def test_a_process_that_takes_over_a_try_continues_its_action(serve: Serve) -> None:
    remote, task = serve(run_on), Task()
    operator(wait_for_completion=False).execute(task.context)
    remote.action().end(results="once")
    assert operator().execute(task.context) == "once"
    assert len(remote.actions) == 1


def test_a_new_try_stops_the_job_of_the_previous_one(serve: Serve) -> None:
    remote, task = serve(run_on), Task()
    with pytest.raises(TaskDeferred):
        operator(deferrable=True, defer_after=0).execute(task.context)  # and then its triggerer dies
    left = remote.action()
    once(lambda: len(remote.actions) > 1, lambda: list(remote.actions.values())[1].end(results="again"))
    assert operator().execute(task.next_try().context) == "again"
    assert left.status == "STOPPED"


def test_the_other_deployment_may_be_away(serve: Serve) -> None:
    remote, task = serve(run_on), Task()

    def outage() -> None:
        remote.is_away = True
        requests = len(remote.requests)
        eventually(lambda: len(remote.requests) > requests + 1)
        remote.action().end(results="late")
        remote.is_away = False

    once(looked(remote), outage)
    with capture_logs() as logged:
        assert operator().execute(task.context) == "late"
    events = [entry["event"] for entry in logged]
    assert sum("this task keeps polling" in event for event in events) == 1
    assert "The other deployment is available again." in events


def test_a_refusal_fails_the_task_and_stops_its_job(serve: Serve) -> None:
    remote = serve(run_on)
    once(looked(remote), lambda: remote.faults.append(refused(403, "forbidden")))
    with pytest.raises(ServerError, match="403 forbidden"):
        operator().execute(Task().context)
    assert remote.action().status == "STOPPED"


@interrupts
@pytest.mark.parametrize(("stops", "status"), [(True, "STOPPED"), (False, "QUEUED")])
def test_a_task_that_runs_out_of_time_stops_its_action(serve: Serve, stops: bool, status: str) -> None:
    remote = serve(run_on)
    once(looked(remote), run_out_of_time)
    with pytest.raises(AirflowTaskTimeout), timeout(PATIENCE_SECONDS):
        operator(stop_on_kill=stops).execute(Task().context)
    assert remote.action().status == status
    gc.collect()


@pytest.mark.parametrize(("stops", "status"), [(True, "STOPPED"), (False, "SUCCESS")])
def test_a_task_that_is_killed_stops_its_action(serve: Serve, stops: bool, status: str) -> None:
    remote, made, killed = serve(run_on), operator(stop_on_kill=stops), threading.Event()

    def on_kill(*_: object) -> None:
        made.on_kill()
        killed.set()

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        killed.wait()
        if not stops:
            remote.action().end()

    before = signal.signal(signal.SIGTERM, on_kill)  # as Airflow does
    once(looked(remote), kill)
    try:
        with suppress(ActionStopped):  # and no other: a task whose worker is shut down may be retried
            made.execute(Task().context)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert remote.action().status == status


def fail_for_now(action: Remote) -> None:
    """Fail, with another try to follow."""
    action.say(f"a line of {action.uuid}")
    action.end("ERROR", errorName="Late", isFinal=False)


def test_a_waiting_task_continues_with_the_next_try(serve: Serve) -> None:
    remote, task = serve(fail_for_now), Task()
    once(looked(remote), lambda: remote.try_again(remote.action()))

    def end() -> None:
        eventually(lambda: len(remote.actions) > 1)
        second = list(remote.actions.values())[1]
        eventually(lambda: task.store["asyncaction.remote"]["actionId"] == second.uuid)
        second.say("a line of the second")
        second.end(results=2, isFinal=True)

    threading.Thread(target=end).start()
    with capture_logs() as logged, timeout(PATIENCE_SECONDS):
        assert operator().execute(task.context) == 2
    first, second = remote.actions
    events = [entry["event"] for entry in logged]
    assert events.count(f"a line of {first}") == 1
    assert events.count("a line of the second") == 1
    assert f"Action {first} ended as ERROR. Its retry is action {second}." in events
    assert task.store == {}


@interrupts
@pytest.mark.parametrize(("stops", "is_final"), [(True, True), (False, False)])
def test_a_task_that_runs_out_of_time_during_a_retry_delay_there_prevents_the_next_try(
    serve: Serve, stops: bool, is_final: bool
) -> None:
    remote = serve(fail_for_now)
    once(looked(remote, times=3), run_out_of_time)
    with pytest.raises(AirflowTaskTimeout), timeout(PATIENCE_SECONDS):
        operator(stop_on_kill=stops).execute(Task().context)
    assert remote.action().more["isFinal"] is is_final
    gc.collect()


def test_a_task_that_is_killed_during_a_retry_delay_there_prevents_the_next_try(serve: Serve) -> None:
    remote, made = serve(fail_for_now), operator()
    before = signal.signal(signal.SIGTERM, lambda *_: made.on_kill())
    once(looked(remote, times=3), lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(ActionFailed, match="Late"), timeout(PATIENCE_SECONDS):
            made.execute(Task().context)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert remote.action().more["isFinal"] is True


def test_a_webda_server_is_refused_before_anything_is_launched(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = serve(run_on)
    monkeypatch.setenv("AIRFLOW_CONN_THERE", remote.connection(extra={"kind": "webda"}))
    with pytest.raises(ValueError, match="wait_for_completion=False"):
        operator().execute(Task().context)
    assert remote.requests == []
    remote.faults = [Answer(204)]
    assert operator(wait_for_completion=False).execute(Task().context) is None


def deferred(task: Task, **parameters: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as raised:
        operator(deferrable=True, defer_after=0, **parameters).execute(task.context)
    return raised.value


def trigger_of(defer: TaskDeferred) -> RemoteActionTrigger:
    """Return the trigger as another process makes it."""
    path, kwargs = defer.trigger.serialize()
    assert path == "airflow_asyncaction.triggers.remote.RemoteActionTrigger"
    return RemoteActionTrigger(**json.loads(json.dumps(kwargs)))


async def event_of(trigger: RemoteActionTrigger) -> dict[str, Any]:
    async for event in trigger.run():
        payload: dict[str, Any] = event.payload
        return payload
    raise AssertionError("it has not fired")


def test_a_deferred_task_ends_with_the_operation(serve: Serve) -> None:
    remote, task = serve(succeed), Task()
    with capture_logs() as logged:
        defer = deferred(task)
        event = asyncio.run(event_of(trigger_of(defer)))
        assert event == {"action_id": remote.action().uuid, "after_line": 11}
        assert operator().resume(task.context, event) == {"rows": 0}
    assert [entry["event"] for entry in logged].count("first line") == 1
    assert [entry["event"] for entry in logged].count("line 11") == 1
    assert task.store == {}
    assert remote_client._clients == {}


def test_a_task_is_deferred_at_once_while_the_next_try_is_awaited_and_its_trigger_goes_on_with_that(
    serve: Serve,
) -> None:
    remote, task = serve(fail_for_now), Task()
    with pytest.raises(TaskDeferred) as raised, timeout(30):
        operator(deferrable=True, defer_after=60).execute(task.context)
    first = remote.action()

    def go_on() -> None:
        second = remote.try_again(first)
        second.say("a line of the second")
        eventually(lambda: remote.seen("GET", f"/async/actions/{second.uuid}/changes"))
        second.end(results=2, isFinal=True)

    once(looked(remote, times=len(looks(remote)) + 1), go_on)
    trigger, started_anew = trigger_of(raised.value), trigger_of(raised.value)
    with capture_logs() as logged:
        event = asyncio.run(event_of(trigger))
    assert event == {"action_id": first.more["nextAttempt"], "after_line": 1}
    assert trigger.action_id == first.more["nextAttempt"]
    events = [entry["event"] for entry in logged]
    assert events.count("a line of the second") == 1
    assert sum("Its retry is" in said for said in events) == 1
    assert asyncio.run(event_of(started_anew)) == event
    assert operator().resume(task.context, event) == 2


def test_a_look_during_a_retry_delay_costs_nothing(serve: Serve) -> None:
    remote, task = serve(fail_for_now), Task()
    trigger = trigger_of(deferred(task))

    once(looked(remote, times=6), lambda: remote.action().end("ERROR", isFinal=True))
    asyncio.run(event_of(trigger))
    assert sum("afterLine=0" in look.path for look in looks(remote)) <= 2


@pytest.mark.parametrize("moved_on", [True, False])
def test_a_trigger_that_is_killed_stops_whatever_is_the_last_try(serve: Serve, moved_on: bool) -> None:
    remote = serve(fail_for_now)
    trigger = trigger_of(deferred(Task()))
    second = remote.try_again(remote.action())

    async def killed() -> None:
        if moved_on:
            with suppress(TimeoutError):
                await asyncio.wait_for(event_of(trigger), 1)
            assert trigger.action_id == second.uuid
        await trigger.on_kill()

    asyncio.run(killed())
    assert second.status == "STOPPED"


def test_a_trigger_that_is_killed_during_a_retry_delay_prevents_the_next_try(serve: Serve) -> None:
    remote = serve(fail_for_now)
    asyncio.run(trigger_of(deferred(Task())).on_kill())
    assert remote.action().more["isFinal"] is True


def test_what_an_earlier_try_has_left_is_stopped_though_it_is_another_try_by_now(serve: Serve) -> None:
    remote, task = serve(fail_for_now), Task()
    deferred(task)  # and then its triggerer dies
    second = remote.try_again(remote.action())
    with pytest.raises(TaskDeferred):
        operator(deferrable=True, defer_after=0).execute(task.next_try().context)
    assert second.status == "STOPPED"


def test_a_trigger_trusts_whom_the_worker_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = certify(tmp_path / "c.pem")
    with RemoteDeployment(certificate=certificate) as remote:
        monkeypatch.setenv("AIRFLOW_CONN_THERE", remote.connection())
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        trigger = trigger_of(deferred(Task()))
        remote.action().end()
        event = asyncio.run(asyncio.wait_for(event_of(trigger), 5))
        assert event["action_id"] == remote.action().uuid


def test_an_invalid_certificate_is_retried_for_a_limited_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_follower, "_UNVERIFIED_PATIENCE_SECONDS", 0.3)
    certificate = certify(tmp_path / "c.pem")
    with RemoteDeployment(certificate=certificate) as remote:
        monkeypatch.setenv("AIRFLOW_CONN_THERE", remote.connection(extra={"verify": str(certificate)}))
        task = Task()
        trigger = trigger_of(deferred(task))
        monkeypatch.setenv("AIRFLOW_CONN_THERE", remote.connection())
        with capture_logs() as logged:
            event = asyncio.run(asyncio.wait_for(event_of(trigger), 10))
        said = [entry["event"] for entry in logged if "cannot be verified (self-signed" in entry["event"]]
        assert ["this task keeps polling" in text for text in said] == [True, False]
        with pytest.raises(ServerError, match="cannot be verified") as raised:
            operator().resume(task.context, event)
        assert raised.value.code == UNVERIFIED


@pytest.mark.parametrize("has_proxy", [True, False])
def test_a_trigger_takes_the_way_that_the_worker_takes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, has_proxy: bool
) -> None:
    remote = serve(run_on)
    for name in ("http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    if has_proxy:
        monkeypatch.setenv("HTTP_PROXY", remote.root.removesuffix("/af"))
        monkeypatch.setenv("AIRFLOW_CONN_THERE", remote.connection(host="http://there.invalid/af/async"))
    else:
        monkeypatch.setenv("HTTP_PROXY", "http://there.invalid:3128")
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    trigger = trigger_of(deferred(Task()))
    remote.action().end()
    asyncio.run(asyncio.wait_for(event_of(trigger), 5))
    assert all(request.path.startswith("http://there.invalid/") is has_proxy for request in remote.requests)


def test_a_trigger_keeps_no_cookie(serve: Serve) -> None:
    remote = serve(run_on)
    trigger = trigger_of(deferred(Task()))
    before = len(remote.requests)
    remote.faults = [Answer(503, text="away", headers={"Set-Cookie": "_token=x; Path=/"})]
    once(lambda: len(remote.requests) > before + 2, lambda: remote.action().end())
    asyncio.run(event_of(trigger))
    assert not any("Cookie" in request.headers for request in remote.requests[before:])


def test_a_trigger_has_no_secret_among_its_arguments(serve: Serve) -> None:
    remote = serve(run_on)
    shown = repr(trigger_of(deferred(Task())))
    assert PASSWORD not in shown
    assert remote.tokens[0] not in shown


def test_a_task_is_not_resumed_before_it_has_settled(serve: Serve) -> None:
    remote = serve(run_on)
    trigger = trigger_of(deferred(Task()))
    remote.action().end()
    began_at = time.monotonic()
    asyncio.run(event_of(trigger))
    assert time.monotonic() - began_at >= settings.resume_delay().total_seconds()


def test_a_trigger_outlives_an_outage_and_an_old_token(serve: Serve) -> None:
    remote, task = serve(run_on), Task()
    defer = deferred(task)
    remote.is_away = True

    before = len(remote.requests)

    def come_back() -> None:
        while len(remote.requests) == before:  # until the trigger has met the outage
            time.sleep(0.01)
        remote.tokens.append("all tokens are void now")
        remote.action().end("ERROR", errorName="Late")
        remote.is_away = False

    threading.Thread(target=come_back).start()
    with capture_logs() as logged:
        event = asyncio.run(event_of(trigger_of(defer)))
    assert sum("this task keeps polling" in entry["event"] for entry in logged) == 1
    with pytest.raises(ActionFailed, match="Late"):
        operator().resume(task.context, event)


def test_a_refusal_is_the_workers_to_raise(serve: Serve) -> None:
    remote, task = serve(run_on), Task()
    defer = deferred(task)
    remote.actions.clear()
    event = asyncio.run(event_of(trigger_of(defer)))
    assert event["after_line"] == 0
    with pytest.raises(ServerError, match="404 no_such_action"):
        operator().resume(task.context, event)


def test_many_triggers_share_one_token(serve: Serve) -> None:
    remote = serve(run_on)
    triggers = [trigger_of(deferred(Task())) for _ in range(20)]
    for action in remote.actions.values():
        action.end()
    before = len(remote.tokens)

    async def all_of_them() -> None:
        await asyncio.gather(*(event_of(trigger) for trigger in triggers))

    asyncio.run(all_of_them())
    assert len(remote.tokens) - before == 1
    assert remote_client._clients == {}


def test_many_triggers_whose_token_has_expired_share_the_next_one(serve: Serve) -> None:
    remote = serve(run_on)
    triggers = [trigger_of(deferred(Task())) for _ in range(20)]
    remote.sign_in_seconds = 0.2

    async def all_of_them() -> int:
        running = [asyncio.create_task(event_of(trigger)) for trigger in triggers]
        await asyncio.sleep(1)  # all have a token
        remote.tokens.append("another: that one has expired")
        signed_in = len(remote.seen("POST", "/auth/token"))
        await asyncio.sleep(1)
        for action in remote.actions.values():
            action.end()
        await asyncio.gather(*running)
        return len(remote.seen("POST", "/auth/token")) - signed_in

    assert asyncio.run(all_of_them()) == 1


@pytest.mark.parametrize(("stops", "status"), [(True, "STOPPED"), (False, "QUEUED")])
def test_a_trigger_that_is_killed_stops_its_action_though_it_is_cancelled_again_and_again(
    serve: Serve, stops: bool, status: str
) -> None:
    remote = serve(run_on)
    trigger = trigger_of(deferred(Task(), stop_on_kill=stops))
    remote.faults = [Answer(503, text="away")] * 2

    async def killed() -> None:
        killing = asyncio.create_task(trigger.on_kill())
        for _ in range(10):
            await asyncio.sleep(0.02)
            killing.cancel()
        with suppress(asyncio.CancelledError):
            await killing

    asyncio.run(killed())
    assert remote.action().status == status


def fail(task: Task, error: TriggerFailureReason, **parameters: Any) -> Any:
    failure = {"error": error, "traceback": ["it broke\n"]}
    return operator(**parameters).resume_execution(TRIGGER_FAIL_REPR, failure, task.context)


@pytest.mark.parametrize(("stops", "status"), [(True, "STOPPED"), (False, "QUEUED")])
def test_a_deferral_has_the_remaining_time_then_stops_the_action(
    serve: Serve, stops: bool, status: str
) -> None:
    remote, task = serve(run_on), Task()
    defer = deferred(task, execution_timeout=timedelta(minutes=1))
    assert isinstance(defer.timeout, timedelta)
    assert timedelta(seconds=50) < defer.timeout <= timedelta(minutes=1)
    with pytest.raises(TaskDeferralTimeout):
        fail(task, TriggerFailureReason.TRIGGER_TIMEOUT, stop_on_kill=stops)
    assert remote.action().status == status


def test_a_worker_takes_the_place_of_a_trigger_that_failed(serve: Serve) -> None:
    remote, task = serve(run_on), Task()
    deferred(task)
    remote.action().end(results=3)
    assert fail(task, TriggerFailureReason.TRIGGER_FAILURE) == 3
    with pytest.raises(TaskDeferralError):
        fail(Task(), TriggerFailureReason.TRIGGER_FAILURE)


@pytest.mark.parametrize("name", ["poll_interval", "defer_after"])
def test_what_is_no_duration_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1"):
        operator(**{name: -1})


def test_what_can_be_a_template() -> None:
    assert operator().template_fields == ("operation", "arguments", "asyncaction_conn_id", "schedule")
