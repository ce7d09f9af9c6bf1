# SPDX-License-Identifier: Apache-2.0
"""Reaping: ends orphaned actions, and no others."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from airflow.models.log import Log
from airflow.utils.state import TaskInstanceState
from sqlalchemy import delete, func, select

from airflow_asyncaction.cli.reap import reap as reap_command
from airflow_asyncaction.protocol.actions import Completion, State
from airflow_asyncaction.protocol.lifecycle import Exit, Launched
from airflow_asyncaction.store import reaping
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.models import action_table
from tests.integration.databases import Database
from tests.integration.job_pods import JobPods
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import HookClient, SignedJob, registered

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


@pytest.fixture
def task(new_task: Callable[..., RunningTask]) -> RunningTask:
    return new_task()


@pytest.fixture
def job(task: RunningTask, client: HookClient) -> SignedJob:
    """Return the job of the task."""
    return registered(task, client)


def is_unwatched(actions: Actions, job: SignedJob, *, later: timedelta = HOUR) -> bool:
    found = reaping.find_unwatched(
        actions.database, older_than=timedelta(minutes=5), now=datetime.now(UTC) + later
    )
    return job.info.job_id in {each.id for each in found}


def reap(actions: Actions, job: SignedJob) -> State:
    now = datetime.now(UTC) + HOUR
    return reaping.reap_if_unwatched(actions, job.info.job_id, now).after.state


def test_an_action_is_ended_whose_task_has_failed(
    task: RunningTask, job: SignedJob, actions: Actions
) -> None:
    job.send_message(Launched({"pid": 1}))
    task.set_state(TaskInstanceState.FAILED)
    assert is_unwatched(actions, job)
    assert reap(actions, job) is State.STOPPED
    view = job.view()
    assert (view.state, view.error_name, view.is_done) == (State.STOPPED, "Killed", True)
    assert job.report().error == (410, "superseded")
    assert not is_unwatched(actions, job)


@pytest.mark.parametrize("state", ["success", "failed", "skipped", "removed", "up_for_retry", None])
def test_a_task_in_such_a_state_watches_nothing(
    task: RunningTask, job: SignedJob, actions: Actions, state: TaskInstanceState
) -> None:
    task.set_state(state)
    assert is_unwatched(actions, job)


@pytest.mark.parametrize("state", ["running", "deferred", "scheduled", "queued", "restarting"])
def test_a_task_in_such_a_state_watches(
    task: RunningTask, job: SignedJob, actions: Actions, state: TaskInstanceState
) -> None:
    task.set_state(state)
    assert not is_unwatched(actions, job)


def test_the_action_of_a_deleted_try_is_ended(
    task: RunningTask, job: SignedJob, actions: Actions, client: HookClient
) -> None:
    again = task.next_try()
    assert is_unwatched(actions, job)
    newer = registered(again, client)  # which fences the older one
    assert not is_unwatched(actions, job)
    assert not is_unwatched(actions, newer)


def test_an_action_with_a_recent_report_is_not_ended(
    task: RunningTask, job: SignedJob, actions: Actions
) -> None:
    task.set_state(TaskInstanceState.FAILED)
    assert not is_unwatched(actions, job, later=timedelta(minutes=4))
    assert is_unwatched(actions, job, later=timedelta(minutes=6))


def test_an_ended_action_is_not_changed(task: RunningTask, job: SignedJob, actions: Actions) -> None:
    job.report(status="SUCCESS")
    task.set_state(TaskInstanceState.SUCCESS)
    assert is_unwatched(actions, job)  # it has reported its end, but may run on
    job.send_message(Exit(code=0))
    assert not is_unwatched(actions, job)


def test_a_report_is_the_end_if_no_exit_can_follow(
    task: RunningTask, client: HookClient, actions: Actions
) -> None:
    job = registered(task, client, completion=Completion.REPORT)
    task.set_state(TaskInstanceState.FAILED)
    assert is_unwatched(actions, job)
    job.report(status="SUCCESS")
    assert not is_unwatched(actions, job)


def test_a_job_that_has_reported_success_keeps_it(
    task: RunningTask, job: SignedJob, actions: Actions
) -> None:
    job.report(status="SUCCESS", results=3)
    task.set_state(TaskInstanceState.FAILED)
    assert reap(actions, job) is State.SUCCESS
    assert job.view().is_done


@pytest.fixture
def only_this(database: Database, job: SignedJob) -> None:
    """Let there be no other action."""
    with database.engine.begin() as connection:
        connection.execute(delete(action_table).where(action_table.c.id != job.info.job_id))


@pytest.mark.usefixtures("only_this")
def test_the_command_ends_them_and_says_so(
    task: RunningTask, job: SignedJob, capsys: pytest.CaptureFixture[str]
) -> None:
    task.set_state(TaskInstanceState.FAILED)
    reap_command(Namespace(unheard_for=3600.0, dry_run=False, pods_in=None))
    assert capsys.readouterr().out == "Found 0 orphaned actions\n"
    reap_command(Namespace(unheard_for=0.0, dry_run=True, pods_in=None))
    first, last = capsys.readouterr().out.splitlines()
    where = f"{task.dag_id} {task.run_id} {task.task_id} -1"
    assert first == f"{job.info.job_id} of type test ({where}): would be ended"
    assert last == "Found 1 orphaned actions"
    assert not job.view().is_done
    reap_command(Namespace(unheard_for=0.0, dry_run=False, pods_in=None))
    assert capsys.readouterr().out.splitlines()[0].endswith(": ended as STOPPED")
    assert job.view().is_done


@pytest.mark.usefixtures("only_this")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True, scope="session")
@pytest.mark.parametrize("on_finish", ["delete_pod", "keep_pod"])
def test_one_run_of_the_command_clears_up_what_it_ended(
    task: RunningTask, job: SignedJob, pods: JobPods, capsys: pytest.CaptureFixture[str], on_finish: str
) -> None:
    pod = pods.create("true", info=job.info, task_key=job.task.secret_key, on_finish=on_finish)
    pod.wait_until_ended()
    task.set_state(TaskInstanceState.FAILED)
    time.sleep(1.1)
    given = {"unheard_for": 1.0, "pods_in": [pod.namespace], "kubernetes_conn_id": None}
    given["config_file"] = str(pods.cluster.kubeconfig)
    reap_command(Namespace(dry_run=True, **given))
    said = capsys.readouterr().out
    assert f"Secret {pod.namespace}/{pod.name} of action {job.info.job_id}: would be deleted" in said
    assert ("pod " in said.splitlines()[2]) is (on_finish == "delete_pod")
    assert pod.has_secret()
    reap_command(Namespace(dry_run=False, **given))
    assert job.view().is_done
    assert not pod.has_secret()
    assert pod.is_going() is (on_finish == "delete_pod")


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_an_invalid_time_is_refused(seconds: float) -> None:
    with pytest.raises(SystemExit, match="--unheard-for must be a number of seconds"):
        reap_command(Namespace(unheard_for=seconds, dry_run=False, pods_in=None))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_airflow_has_the_command(database: Database) -> None:
    done = database.airflow("asyncaction", "reap", "--unheard-for", "99999", "--dry-run")
    assert "Found 0 orphaned actions" in done.stdout
    with database.engine.connect() as connection:
        assert connection.scalar(select(func.count()).where(Log.__table__.c.event == "cli_reap"))


@pytest.mark.parametrize("state", ["failed", "up_for_retry", None])
def test_a_task_may_reap_an_action_unless_it_is_watched(
    task: RunningTask, job: SignedJob, state: TaskInstanceState | None
) -> None:
    for watching in (TaskInstanceState.RUNNING, TaskInstanceState.DEFERRED):
        task.set_state(watching)
        answer = job.send("POST", "/task/reap")
        assert (answer.status, answer.fields["isDone"]) == (200, False)
    task.set_state(state)
    answer = job.send("POST", "/task/reap")
    assert (answer.fields["state"], answer.fields["isDone"]) == ("STOPPED", True)
    assert job.report().error == (410, "superseded")
    assert job.send("POST", "/task/reap").fields["isDone"] is True


def test_only_its_task_may_reap_an_action(client: HookClient, job: SignedJob) -> None:
    assert client.send("POST", "/task/reap", b"").status == 401
    assert not job.view().is_done


def test_pods_are_left_over_once_their_action_is_done(
    actions: Actions, new_job: Callable[..., SignedJob]
) -> None:
    jobs = [new_job() for _ in range(3)]
    jobs[0].send_message(Exit(code=0))
    detached = new_job(completion=Completion.REPORT)
    detached.report(status="SUCCESS")
    ids = [job.info.job_id for job in (*jobs, detached)]
    now = datetime.now(UTC)
    over = reaping.find_done(actions.database, ids, older_than=timedelta(minutes=5), now=now + HOUR)
    assert over == {jobs[0].info.job_id}
    assert reaping.find_done(actions.database, ids, older_than=timedelta(minutes=5), now=now) == set()
