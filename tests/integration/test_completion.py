# SPDX-License-Identifier: Apache-2.0
"""Completion: deferred tasks resume exactly once, in the transaction that ends their action."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.serde import deserialize
from airflow.utils.state import TaskInstanceState
from sqlalchemy import text, update

from airflow_asyncaction.protocol import actions as protocol
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import State, StopReason
from airflow_asyncaction.protocol.lifecycle import Exit, Launched, Stop
from airflow_asyncaction.protocol.tasks import RESULTS_CHANGED, Deferral, NeedsWorker
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.completion import TaskCompleter
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.web.reconciler import Reconciler
from tests.airflow_release import XCOM_TABLE
from tests.integration.databases import Database
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import HookClient, SignedJob, registered
from tests.integration.stored_dags import run_of, store_dag

pytestmark = pytest.mark.integration

CLEAN = Exit(code=0)
ALONE = Deferral(needs_worker=NeedsWorker.ON_FAILURE)
AFTER_RESUME_DELAY = timedelta(seconds=30)


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


@pytest.fixture
def task(database: Database) -> RunningTask:
    with DAG("deferring", schedule=None) as dag:
        dag.relative_fileloc = "deferring.py"
        BaseOperator(task_id="task")
    store_dag(database.engine, dag)
    return run_of(database.engine, "deferring").first


NewDeferred = Callable[..., SignedJob]
Refuse = Callable[[str, str, str], None]
SECRET = "4111-1111-1111-1111"


@pytest.fixture
def deferred(task: RunningTask, client: HookClient) -> NewDeferred:
    """Return what registers the action of the task, and defers the task."""

    def register_and_defer(deferral: Deferral = ALONE, trigger: str | None = None, **spec: Any) -> SignedJob:
        job = registered(task, client, adoptable=True, **spec)
        assert job.send("POST", "/task/defer", deferral.to_json()).status == 200
        task.defer(*([trigger] if trigger else []))
        return job

    return register_and_defer


def state_of(task: RunningTask) -> str | None:
    return str(task.row().state) if task.row().state else None


def later(actions: Actions, task: RunningTask, by: timedelta = AFTER_RESUME_DELAY) -> str | None:
    """Let time pass; return the task's state then."""
    actions.complete_due(datetime.now(UTC) + by)
    return state_of(task)


@pytest.mark.parametrize(
    "results", [{"v": 1, "deep": [None, {"x": 0.5}]}, [1, "2"], "text", 7, 0, False, "", 1.5]
)
def test_an_exit_ends_a_task_whose_job_has_succeeded(
    task: RunningTask, deferred: NewDeferred, results: Any
) -> None:
    job = deferred()
    assert job.report(status="SUCCESS", results=results).status == 200
    assert state_of(task) == "deferred"
    job.send_message(CLEAN)
    row = task.row()
    assert (state_of(task), row.trigger_id, row.end_date is not None) == ("success", None, True)
    assert task.xcoms() == {"return_value": results}


def test_a_program_that_never_reports_has_no_results(task: RunningTask, deferred: NewDeferred) -> None:
    deferred().send_message(CLEAN)
    assert state_of(task) == "success"
    assert task.xcoms() == {}


def test_results_are_not_pushed_unless_the_deferral_says_so(task: RunningTask, deferred: NewDeferred) -> None:
    job = deferred(Deferral(needs_worker=NeedsWorker.ON_FAILURE, pushes_results=False))
    job.report(status="SUCCESS", results=1)
    job.send_message(CLEAN)
    assert (state_of(task), task.xcoms()) == ("success", {})


def test_results_that_airflow_would_deserialize_are_text(task: RunningTask, deferred: NewDeferred) -> None:
    job, results = deferred(), {"__classname__": "builtins.set", "__data__": [1]}
    job.report(status="SUCCESS", results=results)
    job.send_message(CLEAN)
    assert json.loads(task.xcoms()["return_value"]) == results


@pytest.mark.parametrize(
    ("results", "pushed"),
    [
        ("a\0b", '"a\\u0000b"'),
        ({"rows": 3, "note": "a\0b"}, {"rows": 3, "note": '"a\\u0000b"'}),
        ({"rows": [{"a\0": 1}]}, {"rows": ['{"a\\u0000":1}']}),
        ([2**64 - 1, -(2**63)], [2**64 - 1, -(2**63)]),
        ([2**70, -(2**63) - 1, 10**400], [str(2**70), str(-(2**63) - 1), str(10**400)]),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_results_that_an_xcom_cannot_hold_are_text(
    task: RunningTask, deferred: NewDeferred, results: Any, pushed: Any
) -> None:
    job = deferred()
    assert job.report(status="SUCCESS", results=results, logs=["last line"]).status == 200
    view = job.send_message(CLEAN)
    assert state_of(task) == "success"
    assert task.xcoms() == {"return_value": pushed}
    assert strict_json.loads(view.results or "") == results
    lines = [(line.message, line.stream) for line in job.view().logs]
    assert lines == [("last line", None), *([(RESULTS_CHANGED, "server")] if pushed != results else [])]


def test_the_report_is_the_end_under_completion_report(task: RunningTask, deferred: NewDeferred) -> None:
    job = deferred(completion=protocol.Completion.REPORT)
    job.send_message(CLEAN)
    assert state_of(task) == "deferred"
    job.report(status="SUCCESS", results=1)
    assert (state_of(task), task.xcoms()) == ("success", {"return_value": 1})


def test_a_report_is_the_end_without_an_exit(
    task: RunningTask, deferred: NewDeferred, actions: Actions
) -> None:
    job = deferred()
    job.report(status="SUCCESS", results=1)
    assert later(actions, task, timedelta(seconds=5)) == "deferred"
    assert later(actions, task) == "success"
    assert task.xcoms() == {"return_value": 1}


def test_the_log_is_read_on_a_worker_without_an_exit(
    task: RunningTask, deferred: NewDeferred, actions: Actions
) -> None:
    job = deferred(Deferral(needs_worker=NeedsWorker.FOR_LOGS))
    job.report(status="SUCCESS")
    assert later(actions, task) == "scheduled"


@pytest.mark.parametrize(
    ("deferral", "exit_"),
    [
        (Deferral(needs_worker=NeedsWorker.ALWAYS), CLEAN),
        (ALONE, Exit(code=3)),
        (ALONE, Exit(reason="OOMKilled")),
    ],
)
def test_a_task_that_needs_a_worker_is_resumed_after_the_resume_delay(
    task: RunningTask, deferred: NewDeferred, actions: Actions, deferral: Deferral, exit_: Exit
) -> None:
    job = deferred(deferral)
    job.send_message(exit_)
    assert state_of(task) == "deferred"
    assert later(actions, task, timedelta(seconds=5)) == "deferred"
    assert later(actions, task) == "scheduled"
    row = task.row()
    assert (row.next_method, row.trigger_id) == ("resume", None)
    assert deserialize(row.next_kwargs) == {"action_id": "kept", "event": job.info.job_id}
    assert job.view().is_deferred is False


def test_files_are_read_on_a_worker(task: RunningTask, deferred: NewDeferred, actions: Actions) -> None:
    job = deferred()
    announced = {"hash": "0" * 32, "challenge": "1" * 32, "metadata": {}, "name": "x", "size": 1}
    path = f"/upload/default/{job.info.job_id}/model"
    assert job.send("PUT", path, announced).status == 200
    job.send_message(CLEAN)
    assert state_of(task) == "deferred"
    assert later(actions, task) == "scheduled"


@pytest.mark.parametrize("clock", ["heartbeat_timeout", "start_timeout"])
def test_timeouts_expire_while_a_task_is_deferred(
    task: RunningTask, deferred: NewDeferred, actions: Actions, clock: str
) -> None:
    job = deferred(**{clock: timedelta(seconds=60)})
    if clock == "heartbeat_timeout":
        job.report()
    assert later(actions, task) == "deferred"
    assert later(actions, task, timedelta(seconds=70)) == "scheduled"
    view = job.view()
    assert (view.state, view.is_done) == (State.TIMEOUT, True)


def test_a_job_that_must_stop_is_stopped_by_a_worker(
    task: RunningTask, deferred: NewDeferred, actions: Actions
) -> None:
    job = deferred()
    job.send_message(Launched({}))
    job.send_message(Stop(StopReason.REQUESTED))
    assert later(actions, task) == "scheduled"


@pytest.mark.parametrize("state", ["running", "failed", "success", "scheduled", None])
def test_a_task_that_is_not_deferred_is_not_completed(
    task: RunningTask, deferred: NewDeferred, actions: Actions, state: TaskInstanceState | None
) -> None:
    job = deferred()
    task.set_state(state)
    job.send_message(CLEAN)
    assert (state_of(task), later(actions, task)) == (state, state)
    assert job.view().state is State.SUCCESS


def test_a_task_deferred_for_another_trigger_is_not_completed(
    task: RunningTask, deferred: NewDeferred, actions: Actions
) -> None:
    job = deferred(trigger="airflow.providers.standard.triggers.temporal.DateTimeTrigger")
    job.send_message(CLEAN)
    assert (state_of(task), later(actions, task)) == ("deferred", "deferred")


def test_an_end_before_the_deferral_is_not_lost(
    task: RunningTask, client: HookClient, actions: Actions
) -> None:
    job = registered(task, client, adoptable=True)
    assert job.send("POST", "/task/defer", ALONE.to_json()).status == 200
    job.report(status="SUCCESS")
    job.send_message(CLEAN)
    assert state_of(task) == "running"
    task.defer()
    assert later(actions, task, timedelta(0)) == "success"


def test_concurrent_ends_complete_a_task_once(task: RunningTask, deferred: NewDeferred, hook: str) -> None:
    job = deferred(completion=protocol.Completion.REPORT)

    def report(_: int) -> int:
        with HookClient(hook) as client:
            return job.on(client).report(status="SUCCESS", results=1).status

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(report, range(16))) == [200] * 16
    assert (state_of(task), task.xcoms()) == ("success", {"return_value": 1})


def test_a_report_is_kept_even_if_airflow_cannot_end_the_task(
    task: RunningTask, deferred: NewDeferred, actions: Actions, database: Database
) -> None:
    job = deferred()
    with database.engine.begin() as connection:  # what no version of this package can read
        broken = update(action_table).where(action_table.c.id == job.info.job_id).values(deferral="{}")
        connection.execute(broken)
    job.send_message(CLEAN)
    assert job.view().state is State.SUCCESS
    assert state_of(task) == "deferred"
    repaired = json.dumps(ALONE.to_json())
    with database.engine.begin() as connection:
        connection.execute(
            update(action_table).where(action_table.c.id == job.info.job_id).values(deferral=repaired)
        )
    assert later(actions, task) == "success"


@pytest.fixture
def refusing(database: Database) -> Iterator[Refuse]:
    """Return what makes the database refuse to write rows of a table, and quote a value in its error."""
    is_postgres, tables = database.name == "postgresql", []

    def refuse(table: str, event: str, when: str) -> None:
        tables.append(table)
        trigger = f"CREATE TRIGGER refusing BEFORE {event} ON {table} FOR EACH ROW WHEN ({when})"
        with database.engine.begin() as connection:
            if is_postgres:
                body = f"BEGIN RAISE EXCEPTION '{SECRET}'; END"
                function = f"CREATE FUNCTION refuse() RETURNS trigger AS $$ {body} $$ LANGUAGE plpgsql"
                connection.execute(text(function))
                connection.execute(text(f"{trigger} EXECUTE FUNCTION refuse()"))
            else:
                connection.execute(text(f"{trigger} BEGIN SELECT RAISE(ABORT, '{SECRET}'); END"))

    yield refuse
    with database.engine.begin() as connection:
        for table in tables:
            connection.execute(text("DROP TRIGGER refusing" + (f" ON {table}" if is_postgres else "")))
        if is_postgres and tables:
            connection.execute(text("DROP FUNCTION refuse"))


@pytest.mark.parametrize(
    ("table", "event", "when", "next_method"),
    [
        (XCOM_TABLE, "INSERT", "NEW.key = 'return_value'", "resume"),
        ("task_instance", "UPDATE", "NEW.state = 'success'", "resume"),
        ("task_instance", "UPDATE", "NEW.state <> 'deferred' AND NEW.next_method = 'resume'", "__fail__"),
    ],
)
def test_a_worker_completes_what_the_server_cannot(
    task: RunningTask,
    deferred: NewDeferred,
    actions: Actions,
    refusing: Refuse,
    caplog: pytest.LogCaptureFixture,
    table: str,
    event: str,
    when: str,
    next_method: str,
) -> None:
    job = deferred()
    refusing(table, event, when)
    job.report(status="SUCCESS", results={"card": SECRET})
    assert job.send_message(CLEAN).state is State.SUCCESS
    assert state_of(task) == "deferred"
    assert later(actions, task) == "scheduled"
    assert (task.row().next_method, task.row().trigger_id, task.xcoms()) == (next_method, None, {})
    assert f"Could not complete the task of action {job.info.job_id}" in caplog.text
    assert SECRET not in caplog.text


def test_a_task_ends_even_if_its_deferral_is_unreadable(
    task: RunningTask, deferred: NewDeferred, actions: Actions, database: Database
) -> None:
    job = deferred()
    with database.engine.begin() as connection:
        broken = update(action_table).where(action_table.c.id == job.info.job_id).values(deferral="{}")
        connection.execute(broken)
    job.send_message(CLEAN)
    assert later(actions, task) == "scheduled"


def test_a_malformed_deferral_is_refused(task: RunningTask, client: HookClient) -> None:
    job = registered(task, client, adoptable=True)
    answer = job.send("POST", "/task/defer", {"needsWorker": "perhaps", "pushesResults": True})
    assert answer.error == (400, "malformed")
    assert client.send("POST", "/task/defer", b"{}").status == 401


def test_the_reconciler_completes_what_is_due(
    task: RunningTask, deferred: NewDeferred, database: Database
) -> None:
    job = deferred()
    job.report(status="SUCCESS")
    at_once = TaskCompleter(resume_delay=timedelta(0), exit_grace=timedelta(0))
    reconciler = Reconciler(
        Actions(database.store, replay_window=timedelta(minutes=10), completer=at_once),
        interval_seconds=0.05,
    )
    reconciler.start()
    try:
        give_up_at = time.monotonic() + 30
        while state_of(task) != "success":
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
    finally:
        reconciler.stop()
