# SPDX-License-Identifier: Apache-2.0
"""API servers reap unwatched actions by themselves, after the grace period and only once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.utils.state import TaskInstanceState
from cryptography.fernet import Fernet
from sqlalchemy import delete, func, select, update

from airflow_asyncaction.protocol.actions import State, StopReason
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Launched, Stop
from airflow_asyncaction.protocol.tasks import Deferral, NeedsWorker
from airflow_asyncaction.store import rows
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.models import action_table, report_table
from airflow_asyncaction.store.reaping import Reaper, find_unwatched
from airflow_asyncaction.web.reconciler import Reconciler
from dev.postgres import Postgres
from tests.integration.databases import Database
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import HookClient, SignedJob, register, registered
from tests.shared import WORKER

pytestmark = pytest.mark.integration

GRACE = timedelta(minutes=2)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
LONG_AFTER = NOW + timedelta(hours=1)
DEFERRAL = Deferral(needs_worker=NeedsWorker.ALWAYS).to_json()
TIMES = 10  # on each database

NewTask = Callable[..., RunningTask]


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


@pytest.fixture(autouse=True)
def _nothing_else(database: Database) -> None:
    """Let all that other tests have left be done."""
    with database.engine.begin() as connection:
        connection.execute(update(action_table).values(awaited=None, state=State.STOPPED.value, fenced=True))


def look(reaper: Reaper, moment: datetime) -> None:
    """Scan at this moment, by both clocks."""
    reaper.scan(moment, clock_seconds=moment.timestamp())


def set_columns(database: Database, job: SignedJob, **values: Any) -> None:
    with database.engine.begin() as connection:
        connection.execute(update(action_table).where(action_table.c.id == job.info.job_id).values(**values))


def registered_and_failed(task: RunningTask, client: HookClient) -> SignedJob:
    """Return the job of a task that has failed since."""
    job = registered(task, client)
    task.set_state(TaskInstanceState.FAILED)
    return job


def is_marked(database: Database, job: SignedJob) -> bool | None:
    with database.engine.connect() as connection:
        return connection.scalar(select(action_table.c.awaited).where(action_table.c.id == job.info.job_id))


@pytest.fixture
def task(new_task: NewTask) -> RunningTask:
    return new_task()


@pytest.fixture
def job(task: RunningTask, client: HookClient) -> SignedJob:
    """Return the job of a task, launched."""
    job = registered(task, client)
    job.send_message(Launched({"pid": 1}))
    return job


@pytest.fixture
def reaper(actions: Actions) -> Reaper:
    return Reaper(actions, grace=GRACE)


def test_the_action_of_an_ended_task_is_ended_after_the_grace_period(
    task: RunningTask, job: SignedJob, reaper: Reaper
) -> None:
    look(reaper, NOW - timedelta(hours=1))
    task.set_state(TaskInstanceState.FAILED)
    look(reaper, NOW)
    job.report()  # whatever it reports
    look(reaper, NOW + GRACE - timedelta(seconds=1))
    assert not job.view().is_done
    look(reaper, NOW + GRACE)
    view = job.view()
    assert (view.state, view.error_name, view.is_done) == (State.STOPPED, "Killed", True)
    assert job.report().error == (410, "superseded")


def test_a_task_that_watches_again_restarts_the_grace_period(
    task: RunningTask, job: SignedJob, reaper: Reaper
) -> None:
    for state, moment in (("failed", NOW), ("running", NOW + GRACE), ("failed", NOW + 2 * GRACE)):
        task.set_state(TaskInstanceState(state))
        look(reaper, moment)
    assert not job.view().is_done
    look(reaper, NOW + 3 * GRACE)
    assert job.view().is_done


def test_the_last_message_of_a_task_is_not_overtaken(
    task: RunningTask, job: SignedJob, reaper: Reaper
) -> None:
    task.set_state(TaskInstanceState.FAILED)
    look(reaper, NOW)
    job.send_message(Exit(code=3))
    look(reaper, LONG_AFTER)
    assert (job.view().state, job.view().error_name) == (State.ERROR, "ExitCode")


def test_a_job_that_reported_success_and_was_lost_is_done(
    task: RunningTask, job: SignedJob, reaper: Reaper
) -> None:
    job.report(status="SUCCESS", results=3)
    task.set_state(TaskInstanceState.FAILED)
    for moment in (NOW, LONG_AFTER):
        look(reaper, moment)
    assert (job.view().state, job.view().results, job.view().is_done) == (State.SUCCESS, "3", True)


NEXT_TRIES: dict[str, Callable[[RunningTask], object]] = {
    "up for retry": lambda task: task.set_state(TaskInstanceState.UP_FOR_RETRY),
    "replaced": lambda task: task.next_try().set_state(TaskInstanceState.UP_FOR_RETRY),
    "cleared": lambda task: task.next_try().set_state(None),
    "queued": lambda task: task.next_try().set_state(TaskInstanceState.QUEUED),
    "running": lambda task: task.next_try(),
}


@pytest.mark.parametrize("how", NEXT_TRIES)
def test_a_job_is_left_to_the_next_try_that_will_adopt_it(
    new_task: NewTask, client: HookClient, actions: Actions, reaper: Reaper, how: str
) -> None:
    tasks = [new_task() for _ in range(2)]
    left, local = (registered(task, client, adoptable=task is tasks[0]) for task in tasks)
    for task in tasks:
        NEXT_TRIES[how](task)
    found = find_unwatched(actions.database, older_than=timedelta(0), now=LONG_AFTER)
    assert [each.id for each in found] == [local.info.job_id]
    assert left.send("POST", "/task/reap").fields["isDone"] is False
    for moment in (NOW, LONG_AFTER):
        look(reaper, moment)
    assert (left.view().is_done, local.view().is_done) == (False, True)


@pytest.mark.parametrize("how", ["deferred", "stopping", "task failed"])
def test_a_job_that_no_try_will_adopt_is_ended(
    task: RunningTask, client: HookClient, reaper: Reaper, how: str
) -> None:
    job = registered(task, client, adoptable=True)
    if how == "deferred":
        assert job.send("POST", "/task/defer", DEFERRAL).status == 200
    if how == "stopping":
        job.send_message(Stop(StopReason.KILLED))
    task.next_try().set_state(TaskInstanceState.FAILED if how == "task failed" else None)
    for moment in (NOW, LONG_AFTER):
        look(reaper, moment)
    assert job.view().is_done


def test_adoption_and_reaping_at_once_leave_one_job(
    new_task: NewTask, hook: str, client: HookClient, actions: Actions
) -> None:
    for _ in range(TIMES):
        task, reaper = new_task(), Reaper(actions, grace=GRACE)
        job = registered(task, client, adoptable=True)
        task.set_state(TaskInstanceState.FAILED)
        look(reaper, NOW)

        def adopt(task: RunningTask = task) -> dict[str, Any]:
            again = task.next_try()  # somebody has cleared it
            with HookClient(hook) as own_client:
                nonce, answer = again.commit(), None
                while answer is None or answer.status == 503:
                    answer = register(again, own_client, nonce, adoptable=True)
            return answer.fields

        with ThreadPoolExecutor(2) as threads:
            adopting = threads.submit(adopt)
            threads.submit(look, reaper, LONG_AFTER).result()
            is_adopted = adopting.result()["actionId"] == job.info.job_id
        assert job.view().is_done is not is_adopted


def test_concurrent_reapers_with_small_batches_end_each_action_once(
    new_task: NewTask, client: HookClient, database: Database, actions: Actions
) -> None:
    tasks = [new_task() for _ in range(7)]
    jobs = [registered(task, client) for task in tasks]
    for task in tasks[1:]:
        task.set_state(TaskInstanceState.FAILED)
    reapers = [Reaper(actions, grace=GRACE, batch=2) for _ in range(2)]
    for moment in (NOW, LONG_AFTER):
        with ThreadPoolExecutor(2) as threads:
            for _ in range(4):  # looks, of two each
                list(threads.map(lambda reaper, now=moment: look(reaper, now), reapers))
    assert [job.view().is_done for job in jobs] == [False] + 6 * [True]
    columns = report_table.c
    ids = [job.info.job_id for job in jobs]
    query = select(func.count()).where(columns.action_id.in_(ids), columns.kind == "abandon")
    with database.engine.connect() as connection:
        assert connection.scalar(query) == 6


def test_an_action_is_awaited_from_its_registration_until_it_is_done(
    new_task: NewTask, client: HookClient, database: Database
) -> None:
    task = new_task()
    superseded = registered(task, client)
    jobs = [
        superseded,
        registered(task.next_try(), client),
        *(registered(new_task(), client) for _ in "1234"),
    ]
    jobs[2].send_message(Exit(code=1))
    jobs[3].send_message(Abandon())
    jobs[4].report(status="SUCCESS")
    jobs[5].report(status="SUCCESS")
    jobs[5].send_message(Exit(code=0))
    query = select(action_table).where(action_table.c.id.in_([job.info.job_id for job in jobs]))
    with database.engine.connect() as connection:
        found = {row.id: row for row in connection.execute(query)}
    is_awaited = [found[job.info.job_id].awaited is True for job in jobs]
    assert is_awaited == [False, True, False, False, True, False]
    assert is_awaited == [not rows.to_action(found[job.info.job_id]).is_done for job in jobs]


BAD_ROWS: dict[str, dict[str, Any]] = {
    "lost key": {
        name: Fernet(Fernet.generate_key()).encrypt(b"x").decode() for name in ("secret", "task_key")
    },
    "unknown word": {"stop_reason": "a newer release's"},
}


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_bad_row_does_not_block_others(
    new_task: NewTask, client: HookClient, database: Database, reaper: Reaper, bad: str
) -> None:
    jobs = [registered_and_failed(new_task(), client) for _ in range(2)]
    set_columns(database, jobs[0], **BAD_ROWS[bad])
    for moment in (NOW, LONG_AFTER):
        look(reaper, moment)
    is_bad_one_done = is_marked(database, jobs[0]) is None
    with database.engine.begin() as connection:  # other tests read all rows
        connection.execute(delete(action_table).where(action_table.c.id == jobs[0].info.job_id))
    assert jobs[1].view().is_done
    assert is_bad_one_done is (bad == "lost key")


def test_an_action_registered_by_an_older_server_is_found(
    new_task: NewTask, client: HookClient, database: Database, actions: Actions, reaper: Reaper
) -> None:
    jobs = [registered_and_failed(new_task(), client) for _ in range(2)]
    for job in jobs:
        set_columns(database, job, awaited=None)
    found = find_unwatched(actions.database, older_than=timedelta(0), now=LONG_AFTER)
    assert {each.id for each in found} == {job.info.job_id for job in jobs}
    set_columns(database, jobs[0], awaited=None)
    for moment in (NOW, LONG_AFTER):
        look(reaper, moment)
    assert [job.view().is_done for job in jobs] == [True, True]


def test_an_action_registered_by_an_older_server_is_marked_by_its_end(
    database: Database, job: SignedJob
) -> None:
    set_columns(database, job, awaited=None)
    job.report(status="SUCCESS")
    assert is_marked(database, job) is True
    job.send_message(Exit(code=0))
    assert is_marked(database, job) is None


@pytest.mark.parametrize("word", [Exit(code=0), Abandon()], ids=["exit", "abandon"])
def test_an_action_ended_by_an_older_server_is_unmarked_silently(
    task: RunningTask,
    job: SignedJob,
    database: Database,
    reaper: Reaper,
    caplog: pytest.LogCaptureFixture,
    word: Exit | Abandon,
) -> None:
    before = job.send_message(word)
    set_columns(database, job, awaited=True)
    task.set_state(TaskInstanceState.SUCCESS)
    for moment in (NOW, LONG_AFTER):
        look(reaper, moment)
    assert is_marked(database, job) is None
    assert job.view() == before
    assert "No task watched" not in caplog.text


def test_a_clock_change_ends_nothing(task: RunningTask, job: SignedJob, reaper: Reaper) -> None:
    task.set_state(TaskInstanceState.FAILED)
    for moment in (NOW, LONG_AFTER):
        reaper.scan(moment, clock_seconds=1.0)
    assert not job.view().is_done


@pytest.mark.parametrize("database", ["postgresql"], indirect=True, scope="session")
def test_the_grace_period_restarts_after_a_database_outage(
    database: Database, actions: Actions, task: RunningTask, job: SignedJob, postgres_server: Postgres
) -> None:
    grace = timedelta(seconds=2)
    reconciler = Reconciler(actions, reap_after=grace, interval_seconds=0.05)
    task.set_state(TaskInstanceState.FAILED)
    reconciler.start()
    time.sleep(0.2)
    with postgres_server.outage(f"airflow_{WORKER}"):
        time.sleep(1)
        back_at = datetime.now(UTC)
    give_up_at = time.monotonic() + 60
    while not job.view().is_done:
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    reconciler.stop()
    with database.engine.connect() as connection:
        query = select(action_table.c.ended_at).where(action_table.c.id == job.info.job_id)
        assert connection.scalars(query).one() >= back_at + grace


@pytest.fixture
def reconciler(actions: Actions) -> Iterator[Reconciler]:
    reconciler = Reconciler(actions, reap_after=timedelta(seconds=0.2), interval_seconds=0.05)
    reconciler.start()
    yield reconciler
    reconciler.stop()


@pytest.mark.usefixtures("reconciler")
def test_an_api_server_reaps_by_itself(task: RunningTask, job: SignedJob) -> None:
    task.set_state(TaskInstanceState.FAILED)
    give_up_at = time.monotonic() + 60
    while not job.view().is_done:
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    assert job.view().state is State.STOPPED


def test_reaping_can_be_disabled(task: RunningTask, job: SignedJob, actions: Actions) -> None:
    task.set_state(TaskInstanceState.FAILED)
    reconciler = Reconciler(actions, reap_after=timedelta(0), interval_seconds=0.02)
    reconciler.start()
    time.sleep(0.3)
    reconciler.stop()
    assert not job.view().is_done
