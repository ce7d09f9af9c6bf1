# SPDX-License-Identifier: Apache-2.0
"""Launching: actions are queued once, registered by their task, or reconciled."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.utils.state import TaskInstanceState
from cryptography.fernet import Fernet
from sqlalchemy import delete, insert, update

from airflow_asyncaction.exceptions import RegistrationRefused, StoreUnavailable, UserRefused
from airflow_asyncaction.protocol.actions import State, StopReason
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Exit, Stop
from airflow_asyncaction.protocol.operations import Declaration
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.protocol.tasks import ActionSpec
from airflow_asyncaction.store import launching, reaping
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.launching import RUN_GRACE, Launch, WantedRun
from airflow_asyncaction.store.listing import ActionRecord, find, find_outlook
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.store.operations import Operation
from airflow_asyncaction.store.registration import Claimant, Registered, RegistrationRequest, register
from airflow_asyncaction.store.timeline import read_reports
from tests.integration.databases import Database
from tests.integration.running_tasks import RunningTask, running_task

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SPEC = ActionSpec(type="etl.load", runner="local", arguments=JsonText('{"table": "t", "rows": 10}'))

UNREADABLE = Fernet(Fernet.generate_key()).encrypt(b"x").decode()

_runs = DagRun.metadata.tables["dag_run"]


def launch(**given: Any) -> Launch:
    operation = Operation(
        id=f"dag_{secrets.token_hex(4)}",
        task_id="task",
        declaration=Declaration(type="etl"),
        description=None,
        is_paused=False,
    )
    defaults = {"operation": operation, "arguments": JsonText('{"table": "t"}'), "requested_by": "ann"}
    return Launch(**{**defaults, **given})


def started(database: Database, queued: ActionRecord) -> RunningTask:
    """Let the task of a queued action run."""
    return running_task(database.engine, dag_id=queued.dag_id, run_id=queued.row.run_id)


def registered(actions: Actions, task: RunningTask, spec: ActionSpec = SPEC) -> Registered:
    return register(
        actions.database, Claimant.of(task.ti_id, task.commit()), lambda: RegistrationRequest(spec), NOW
    )


def run(database: Database, action: ActionRecord, state: str) -> None:
    """Let the Dag run of an action be in a state, without that its task ever ran."""
    values = {"dag_id": action.dag_id, "run_id": action.row.run_id, "run_type": "manual", "state": state}
    with database.engine.begin() as connection:
        connection.execute(delete(_runs).where(_runs.c.run_id == action.row.run_id))
        connection.execute(insert(_runs).values(**values, run_after=NOW))


def forget(database: Database, action: ActionRecord) -> None:
    """Delete an action that other tests could not read."""
    with database.engine.begin() as connection:
        connection.execute(delete(action_table).where(action_table.c.id == action.id))


def test_an_action_exists_as_soon_as_it_is_launched(actions: Actions) -> None:
    wanted = launch(requested_by="ann")
    queued = launching.queue(actions.database, wanted, NOW)
    shown = queued.action.to_json(NOW)
    assert queued.is_new
    assert (shown["status"], shown["arguments"], shown["requestedBy"]) == ("QUEUED", {"table": "t"}, "ann")
    assert (shown["dagId"], shown["runId"]) == (wanted.operation.id, f"async__{queued.action.id}")
    assert shown["createdAt"] == "2026-11-24T12:00:00.000Z"
    assert shown["isDone"] is False
    kinds = [
        report["kind"]
        for report in read_reports(actions.database, queued.action.id, 0, bodies=True)["reports"]
    ]
    assert kinds == ["queued"]


def test_the_task_registers_the_queued_action(database: Database, actions: Actions) -> None:
    queued = launching.queue(actions.database, launch(), NOW - timedelta(hours=1)).action
    task = started(database, queued)
    taken = registered(actions, task)
    assert taken.action.id == queued.id
    assert taken.action.state is State.STARTING
    shown = find(actions.database, queued.id).to_json(NOW)
    assert (shown["type"], shown["arguments"]) == ("etl.load", {"table": "t", "rows": 10})
    assert shown["createdAt"] == "2026-11-24T11:00:00.000Z"
    assert taken.action.created_at == NOW  # its clocks go from here
    kinds = [
        report["kind"] for report in read_reports(actions.database, queued.id, 0, bodies=True)["reports"]
    ]
    assert kinds == ["queued", "registered"]


def test_the_next_try_has_an_action_of_its_own(database: Database, actions: Actions) -> None:
    queued = launching.queue(actions.database, launch(), NOW).action
    task = started(database, queued)
    registered(actions, task)
    again = registered(actions, task.next_try())
    assert again.action.id != queued.id
    assert find(actions.database, queued.id).state is State.STOPPED


def test_twenty_requests_with_one_key_are_one_action(actions: Actions) -> None:
    wanted = launch(idempotency_key="k")
    with ThreadPoolExecutor(20) as threads:
        queued = list(threads.map(lambda _: launching.queue(actions.database, wanted, NOW), range(20)))
    assert len({each.action.id for each in queued}) == 1
    assert [each.is_new for each in queued].count(True) == 1


def test_a_key_belongs_to_one_user_and_one_operation(actions: Actions) -> None:
    wanted = launch(idempotency_key="k")
    ids = {
        launching.queue(actions.database, each, NOW).action.id
        for each in (wanted, replace(wanted, requested_by="bob"), replace(launch(), idempotency_key="k"))
    }
    assert len(ids) == 3


def test_the_request_of_a_key_is_stored_as_a_digest(actions: Actions) -> None:
    wanted = launch(idempotency_key="k")
    first = launching.queue(actions.database, wanted, NOW).action
    assert first.row.request_digest == wanted.request_digest
    assert replace(wanted, arguments=JsonText("{}")).request_digest != wanted.request_digest
    assert replace(wanted, scheduled_at=NOW).request_digest != wanted.request_digest


def test_only_the_first_request_creates_the_run(database: Database, actions: Actions) -> None:
    created: list[WantedRun] = []

    def create(wanted: WantedRun) -> None:
        created.append(wanted)
        run(database, find(actions.database, JobId(wanted.run_id.removeprefix("async__"))), "queued")

    wanted = launch(idempotency_key="k", arguments=JsonText('{"table":"orders"}'))
    with ThreadPoolExecutor(8) as threads:
        launched = list(threads.map(lambda _: launching.launch(actions, wanted, create), range(8)))
    (action_id,) = {action.id for action in launched}
    (asked,) = created
    assert (asked.run_id, asked.conf) == (f"async__{action_id}", {"table": "orders"})


def test_a_missing_run_is_created_by_the_next_request(actions: Actions) -> None:
    wanted = launch(idempotency_key="k")
    created: list[WantedRun] = []

    def fail(_: WantedRun) -> None:
        raise StoreUnavailable

    with pytest.raises(StoreUnavailable):
        launching.launch(actions, wanted, fail)
    again = launching.launch(actions, wanted, created.append)
    assert [asked.run_id for asked in created] == [again.row.run_id]


def test_the_order_of_fields_does_not_matter(actions: Actions) -> None:
    wanted = launch(idempotency_key="k", arguments=JsonText('{"of":{"a":1,"b":2}}'))
    first = launching.queue(actions.database, wanted, NOW)
    other = replace(wanted, arguments=JsonText('{"of":{"b":2,"a":1}}'))
    assert launching.queue(actions.database, other, NOW).matches(other)
    assert launching.queue(actions.database, other, NOW).action.id == first.action.id


def test_a_refused_run_frees_its_key(actions: Actions) -> None:
    wanted = launch(idempotency_key="k")
    first = launching.queue(actions.database, wanted, NOW).action
    launching.end_refused(actions, first.id, "no manual runs", NOW)
    shown = find(actions.database, first.id).to_json(NOW)
    assert (shown["status"], shown["errorName"], shown["errorMessage"]) == (
        "ERROR",
        "RunRefused",
        "no manual runs",
    )
    assert launching.queue(actions.database, wanted, NOW).is_new


def test_a_scheduled_action_is_queued_when_it_is_due(database: Database, actions: Actions) -> None:
    at = NOW + timedelta(days=1)
    action = launching.queue(actions.database, launch(scheduled_at=at), NOW).action
    run(database, action, "queued")
    assert action.state is State.SCHEDULED
    launching.reconcile_queued(actions, at - timedelta(seconds=1))
    assert find(actions.database, action.id).state is State.SCHEDULED
    launching.reconcile_queued(actions, at)
    assert find(actions.database, action.id).state is State.QUEUED
    launching.reconcile_queued(actions, at + timedelta(days=2))
    assert (
        find(actions.database, action.id).state is State.QUEUED
    )  # its run waits: for a slot, or an unpaused Dag


@pytest.mark.parametrize(
    ("run_state", "end"),
    [("failed", ("ERROR", "RunFailed")), ("success", ("SUCCESS", None)), ("running", ("QUEUED", None))],
)
def test_an_action_ends_with_a_run_that_never_launched_it(
    database: Database, actions: Actions, run_state: str, end: tuple[str, str | None]
) -> None:
    action = launching.queue(actions.database, launch(), NOW).action
    run(database, action, run_state)
    launching.reconcile_queued(actions, NOW + timedelta(hours=1))
    shown = find(actions.database, action.id).to_json(NOW)
    assert (shown["status"], shown["errorName"]) == end


@pytest.mark.parametrize("run_state", ["success", "failed"])
@pytest.mark.parametrize(
    ("task_state", "end"),
    [
        (TaskInstanceState.SKIPPED, ("STOPPED", "Skipped")),
        (TaskInstanceState.UPSTREAM_FAILED, ("ERROR", "RunFailed")),
        (TaskInstanceState.FAILED, ("ERROR", "RunFailed")),
    ],
)
def test_an_action_ends_like_its_task_that_never_launched_it(
    database: Database,
    actions: Actions,
    run_state: str,
    task_state: TaskInstanceState,
    end: tuple[str, str],
) -> None:
    action = launching.queue(actions.database, launch(), NOW).action
    started(database, action).set_state(task_state)
    with database.engine.begin() as connection:
        of_it = _runs.c.run_id == action.row.run_id
        connection.execute(update(_runs).where(of_it).values(state=run_state))
    launching.reconcile_queued(actions, NOW + timedelta(hours=1))
    ended = find(actions.database, action.id)
    shown = ended.to_json(NOW)
    assert (shown["status"], shown["errorName"]) == end
    assert find_outlook(actions.database, ended).is_final


def test_an_action_without_a_run_ends_after_the_grace(actions: Actions) -> None:
    wanted = launch(idempotency_key="k")
    action = launching.queue(actions.database, wanted, NOW).action
    launching.reconcile_queued(actions, NOW + RUN_GRACE)
    assert find(actions.database, action.id).state is State.QUEUED
    launching.reconcile_queued(actions, NOW + RUN_GRACE + timedelta(seconds=1))
    shown = find(actions.database, action.id).to_json(NOW)
    assert (shown["status"], shown["errorName"], shown["isDone"]) == ("STOPPED", "RunDeleted", True)
    assert launching.queue(actions.database, wanted, NOW).is_new


def test_an_action_with_a_lost_key_ends(database: Database, actions: Actions) -> None:
    lost, other = (launching.queue(actions.database, launch(), NOW).action for _ in range(2))
    with database.engine.begin() as connection:
        query = update(action_table).where(action_table.c.id == lost.id)
        connection.execute(query.values(secret=UNREADABLE, task_key=UNREADABLE))
    launching.reconcile_queued(actions, NOW + timedelta(hours=1))
    states = [find(actions.database, action.id).state for action in (lost, other)]
    forget(database, lost)
    assert states == [State.STOPPED, State.STOPPED]


def test_a_bad_row_does_not_block_others(database: Database, actions: Actions) -> None:
    bad, other = (launching.queue(actions.database, launch(), NOW).action for _ in range(2))
    with database.engine.begin() as connection:
        query = update(action_table).where(action_table.c.id == bad.id)
        connection.execute(query.values(stop_reason="a newer release's"))
    launching.reconcile_queued(actions, NOW + timedelta(hours=1))
    forget(database, bad)
    assert find(actions.database, other.id).state is State.STOPPED


def test_an_action_that_was_stopped_in_time_is_never_launched(database: Database, actions: Actions) -> None:
    action = launching.queue(actions.database, launch(), NOW).action
    actions.apply_message(action.id, Stop(StopReason.REQUESTED), NOW)
    assert find(actions.database, action.id).state is State.STOPPED
    task = started(database, action)
    with pytest.raises(RegistrationRefused, match="stopped before") as refused:
        registered(actions, task)
    assert refused.value.code == "stopped"


class Stopping:
    """A user who stops an action that they read before, and the resulting requests to Airflow."""

    def __init__(self, actions: Actions, action: ActionRecord) -> None:
        self._actions = actions
        self._action = action
        self.failed: list[str] = []

    def stop(self) -> ActionRecord:
        return launching.stop(
            self._actions,
            self._action,
            requested_by="ann",
            method="PUT",
            fail_run=lambda _: self.failed.append("run"),
            fail_task=lambda _: self.failed.append("task"),
        )

    def is_on_time_line(self) -> bool:
        reports = read_reports(self._actions.database, self._action.id, 0, bodies=False)["reports"]
        return [report["requestedBy"] for report in reports if report["kind"] == "stop"] == ["ann"]


@pytest.fixture
def running(database: Database, actions: Actions) -> ActionRecord:
    """Return an action that runs."""
    queued = launching.queue(actions.database, launch(), NOW).action
    registered(actions, started(database, queued))
    return find(actions.database, queued.id)


def test_an_action_that_succeeds_while_it_is_stopped_is_not_stopped(
    actions: Actions, running: ActionRecord
) -> None:
    stopping = Stopping(actions, running)
    actions.apply_message(running.id, Exit(code=0), NOW)
    with pytest.raises(UserRefused, match="has already ended as SUCCESS"):
        stopping.stop()
    assert (stopping.failed, stopping.is_on_time_line()) == ([], False)


def test_no_other_try_follows_a_skipped_action_though_its_task_still_runs(
    actions: Actions, running: ActionRecord
) -> None:
    stopping = Stopping(actions, running)
    actions.apply_message(running.id, Exit(code=99, is_skip=True), NOW)
    assert find_outlook(actions.database, find(actions.database, running.id)).is_final
    with pytest.raises(UserRefused, match="has already ended as STOPPED"):
        stopping.stop()
    assert (stopping.failed, stopping.is_on_time_line()) == ([], False)


def test_an_action_that_fails_while_it_is_stopped_is_kept_from_its_next_try(
    actions: Actions, running: ActionRecord
) -> None:
    stopping = Stopping(actions, running)
    actions.apply_message(running.id, Exit(code=1), NOW)
    assert stopping.stop().state is State.ERROR
    assert (stopping.failed, stopping.is_on_time_line()) == (["task"], True)


def test_the_run_of_an_action_that_is_launched_while_it_is_stopped_goes_on(
    database: Database, actions: Actions
) -> None:
    queued = launching.queue(actions.database, launch(), NOW).action
    registered(actions, started(database, queued))
    stopping = Stopping(actions, queued)
    assert stopping.stop().row.verb == "STOP"
    assert (stopping.failed, stopping.is_on_time_line()) == ([], True)


def test_an_action_with_a_lost_key_is_stopped(
    database: Database, actions: Actions, running: ActionRecord
) -> None:
    with database.engine.begin() as connection:
        query = update(action_table).where(action_table.c.id == running.id)
        connection.execute(query.values(secret=UNREADABLE, task_key=UNREADABLE))
    verb = Stopping(actions, running).stop().row.verb
    forget(database, running)
    assert verb == "STOP"


def test_a_queued_action_is_not_reaped(actions: Actions) -> None:
    action = launching.queue(actions.database, launch(), NOW).action
    unwatched = reaping.find_unwatched(actions.database, older_than=timedelta(0), now=NOW + timedelta(days=1))
    assert action.id not in {each.id for each in unwatched}


def test_a_scheduled_action_is_not_old_before_its_time(actions: Actions) -> None:
    at = NOW + timedelta(days=300)
    assert launching.queue(actions.database, launch(scheduled_at=at), NOW).action.row.updated_at == at


def test_a_past_time_is_now(actions: Actions) -> None:
    past = launch(scheduled_at=NOW - timedelta(days=1))
    assert launching.queue(actions.database, past, NOW).action.state is State.QUEUED
