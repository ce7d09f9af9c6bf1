# SPDX-License-Identifier: Apache-2.0
"""Adoption: a job that outlives its worker continues under its task's next process, and no other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.utils.state import TaskInstanceState

from airflow_asyncaction.protocol.actions import Completion, State, StopReason
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Launched, Stop
from airflow_asyncaction.protocol.runner_messages import message_to_json
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.protocol.tasks import ActionSpec, Deferral, NeedsWorker
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import (
    Answer,
    HookClient,
    SignedJob,
    register,
    registered,
    sent_registration,
)

pytestmark = pytest.mark.integration

NewTask = Callable[..., RunningTask]
DEFERRAL = Deferral(needs_worker=NeedsWorker.ALWAYS)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


@pytest.fixture
def task(new_task: NewTask) -> RunningTask:
    return new_task()


@pytest.fixture
def job(task: RunningTask, client: HookClient) -> SignedJob:
    """Return the job of the task, launched."""
    job = registered(task, client, adoptable=True)
    job.send_message(Launched({"pod": "x"}))
    return job


def again(task: RunningTask, client: HookClient, resumes: str | None = None, **spec: Any) -> Answer:
    """Let a process of the task register."""
    wanted = ActionSpec(**{"type": "test", "runner": "local", "adoptable": True, **spec})
    fields = {"spec": wanted.to_json(), "resumes": resumes}
    return sent_registration(client, task.ti_id, task.commit(), fields)


def is_adopted(answer: Answer, job: SignedJob) -> bool:
    assert answer.status == 200, answer
    same = bool(answer.fields["actionId"] == job.info.job_id)
    assert same == (answer.fields["secretKey"] == job.info.secret_key) == answer.fields["wasLaunched"]
    return same


def test_the_next_try_adopts_the_job_of_a_killed_worker(
    task: RunningTask, job: SignedJob, client: HookClient
) -> None:
    answer = again(task.next_try(), client)
    assert is_adopted(answer, job)
    assert answer.fields["attempt"] == 2
    assert job.report(status="SUCCESS").status == 200


def test_a_try_that_takes_nothing_over_starts_a_new_job(
    task: RunningTask, job: SignedJob, client: HookClient
) -> None:
    assert is_adopted(again(task, client, takes_over=False), job)  # its own
    assert not is_adopted(again(task.next_try(), client, takes_over=False), job)
    assert job.report().error == (410, "superseded")


@pytest.mark.parametrize("completion", list(Completion))
@pytest.mark.parametrize("end", [Exit(code=0), Abandon()], ids=["exit", "abandon"])
def test_a_retry_adopts_a_job_that_succeeded_after_its_try_failed(
    task: RunningTask, client: HookClient, completion: Completion, end: Exit | Abandon
) -> None:
    job = registered(task, client, adoptable=True, completion=completion)
    retry = task.retried()
    assert job.report(status="SUCCESS", results={"rows": 3}).status == 200
    job.send_message(end)
    assert is_adopted(again(retry, client, completion=completion), job)
    job.send_message(
        Exit(reason="PodDeleted", message="The pod is gone", is_seen=False)
    )  # so its runner finds
    view = job.view()
    assert (view.state, view.is_done, view.results) == (State.SUCCESS, True, '{"rows":3}')


def test_a_retry_adopts_a_success_with_masked_arguments(task: RunningTask, client: HookClient) -> None:
    arguments = JsonText('{"password":"x"}')
    job = registered(task, client, adoptable=True, arguments=arguments)
    retry = task.retried()
    assert job.report(status="SUCCESS").status == 200
    job.send_message(Exit(code=0))
    assert is_adopted(again(retry, client, arguments=arguments), job)


def _took_the_end(job: SignedJob, task: RunningTask) -> RunningTask:
    job.send_message(Exit(code=0))
    return task.retried(says_it_ended_at=datetime.now(UTC) - MINUTE)  # by its worker's clock, which is late


def _was_cleared(job: SignedJob, task: RunningTask) -> RunningTask:
    retry = task.retried(is_cleared=True)
    job.send_message(Exit(code=0))
    return retry


def _was_asked_to_stop(job: SignedJob, task: RunningTask) -> RunningTask:
    retry = task.retried()
    job.report(status="SUCCESS")
    job.send_message(Stop(StopReason.REQUESTED))
    job.send_message(Exit(code=0))
    return retry


def _failed(job: SignedJob, task: RunningTask) -> RunningTask:
    retry = task.retried()
    job.send_message(Exit(code=1))
    return retry


@pytest.mark.parametrize("end", [_took_the_end, _was_cleared, _was_asked_to_stop, _failed])
def test_every_other_job_that_is_done_is_run_again(
    task: RunningTask, job: SignedJob, client: HookClient, end: Callable[..., RunningTask]
) -> None:
    assert not is_adopted(again(end(job, task), client), job)


def test_a_retry_that_asks_for_something_else_takes_nothing_over(
    task: RunningTask, job: SignedJob, client: HookClient
) -> None:
    retry = task.retried()
    job.send_message(Exit(code=0))
    assert not is_adopted(again(retry, client, arguments=JsonText('{"table": "other"}')), job)


def test_a_job_that_cannot_outlive_its_worker_is_superseded(task: RunningTask, client: HookClient) -> None:
    job = registered(task, client)
    job.send_message(Launched({"pid": 1}))
    answer = register(task.next_try(), client, task.commit())
    assert answer.fields["actionId"] != job.info.job_id
    assert job.report().error == (410, "superseded")


@pytest.mark.parametrize(
    "message", [Exit(code=1), Stop(StopReason.KILLED), Stop(StopReason.REQUESTED), Abandon()], ids=repr
)
def test_a_job_that_has_ended_or_is_to_is_not_adopted(
    task: RunningTask, job: SignedJob, client: HookClient, message: Exit | Stop | Abandon
) -> None:
    job.send_message(message)
    assert not is_adopted(again(task.next_try(), client), job)


def test_a_deferred_task_that_was_cleared_starts_a_new_job(
    task: RunningTask, job: SignedJob, client: HookClient
) -> None:
    job.send("POST", "/task/defer", DEFERRAL.to_json())
    assert not is_adopted(again(task.next_try(), client), job)
    assert job.report().error == (410, "superseded")


def test_a_resumed_task_continues_its_action(task: RunningTask, job: SignedJob, client: HookClient) -> None:
    job.send("POST", "/task/defer", DEFERRAL.to_json())
    job.send_message(Exit(code=3))
    assert is_adopted(again(task, client, resumes=job.info.job_id), job)
    assert (job.view().state, job.view().is_deferred) == (State.ERROR, False)


def test_a_task_that_the_scheduler_reset_continues_its_action(
    task: RunningTask, job: SignedJob, client: HookClient
) -> None:
    job.send("POST", "/task/defer", DEFERRAL.to_json())
    assert is_adopted(again(task.next_try(), client, resumes=job.info.job_id), job)


def test_an_action_of_another_task_cannot_be_resumed(
    job: SignedJob, client: HookClient, new_task: NewTask
) -> None:
    assert not is_adopted(again(new_task(), client, resumes=job.info.job_id), job)
    assert job.report().status == 200


def test_the_process_that_lost_its_job_has_no_say_any_more(
    task: RunningTask, job: SignedJob, client: HookClient
) -> None:
    assert is_adopted(again(task.next_try(), client), job)
    for message in (Stop(StopReason.KILLED), Exit(code=1), Abandon()):
        answer = job.send("POST", "/task/message", message_to_json(message), query=f"ti={task.ti_id}")
        assert answer.error == (410, "superseded")
    view = job.view()
    assert (view.state, view.verb) == (State.RUNNING, None)


@pytest.mark.parametrize("message", [Stop(StopReason.KILLED), Abandon()], ids=repr)
def test_an_abandoned_process_does_not_stop_what_the_next_try_adopts(
    task: RunningTask, job: SignedJob, client: HookClient, message: Stop | Abandon
) -> None:
    second = task.next_try()  # its process does not run yet
    answer = job.send("POST", "/task/message", message_to_json(message), query=f"ti={task.ti_id}")
    assert answer.error == (410, "superseded")
    assert "next try" in answer.fields["message"]
    assert is_adopted(again(second, client), job)


@pytest.mark.parametrize(("retries", "status"), [(1, 410), (0, 200)])
def test_a_worker_that_shuts_down_leaves_its_job_to_the_next_try_if_there_is_one(
    task: RunningTask, job: SignedJob, retries: int, status: int
) -> None:
    task.set_retries(retries)
    answer = job.send(
        "POST", "/task/message", message_to_json(Stop(StopReason.KILLED)), query=f"ti={task.ti_id}"
    )
    assert answer.status == status
    over_time = message_to_json(Stop(StopReason.EXECUTION_TIMEOUT))
    assert job.send("POST", "/task/message", over_time, query=f"ti={task.ti_id}").fields["verb"] == "STOP"


@pytest.mark.parametrize("state", ["restarting", "failed", "success", "skipped"])
def test_a_process_that_is_killed_for_a_person_stops_its_job(
    task: RunningTask, job: SignedJob, state: TaskInstanceState
) -> None:
    task.set_retries(1)
    task.set_state(state)
    answer = job.send(
        "POST", "/task/message", message_to_json(Stop(StopReason.KILLED)), query=f"ti={task.ti_id}"
    )
    assert (answer.status, answer.fields["verb"]) == (200, "STOP")


@pytest.mark.parametrize("mark", [None, TaskInstanceState.FAILED])
def test_a_process_whose_run_was_deleted_stops_its_job(
    task: RunningTask, job: SignedJob, mark: TaskInstanceState | None
) -> None:
    task.set_retries(1)
    if mark is not None:
        task.set_state(mark)
    task.delete_run()
    words = [
        job.send("POST", "/task/message", message_to_json(message), query=f"ti={task.ti_id}")
        for message in (Stop(StopReason.KILLED), Exit(code=143))
    ]
    assert [answer.status for answer in words] == [200, 200]
    assert words[0].fields["verb"] == "STOP"
    assert (job.view().state, job.view().error_name) == (State.STOPPED, "Killed")


def test_a_process_whose_run_was_deleted_ends_its_action_if_it_cannot_see_the_exit(
    task: RunningTask, job: SignedJob
) -> None:
    task.delete_run()
    answer = job.send("POST", "/task/message", message_to_json(Abandon()), query=f"ti={task.ti_id}")
    assert answer.status == 200
    assert (job.view().state, job.view().is_done) == (State.STOPPED, True)


@pytest.mark.parametrize("state", ["failed", "success", "removed"])
def test_a_next_try_that_was_marked_before_it_ran_adopts_nothing(
    task: RunningTask, job: SignedJob, state: TaskInstanceState
) -> None:
    task.next_try().set_state(state)
    answer = job.send(
        "POST", "/task/message", message_to_json(Stop(StopReason.KILLED)), query=f"ti={task.ti_id}"
    )
    assert (answer.status, answer.fields["verb"]) == (200, "STOP")


def test_the_job_of_a_deferred_task_that_was_cleared_is_stopped(task: RunningTask, job: SignedJob) -> None:
    job.send("POST", "/task/defer", DEFERRAL.to_json())
    task.next_try()
    answer = job.send(
        "POST", "/task/message", message_to_json(Stop(StopReason.KILLED)), query=f"ti={task.ti_id}"
    )
    assert (answer.status, answer.fields["verb"]) == (200, "STOP")


def test_a_try_cannot_resume_another_action_than_its_own(
    task: RunningTask, job: SignedJob, client: HookClient
) -> None:
    assert again(task, client, resumes="another").error == (409, "already_registered")
    assert is_adopted(again(task, client, resumes=job.info.job_id), job)


def test_a_second_process_of_the_same_try_must_prove_itself_as_well(
    task: RunningTask, job: SignedJob, client: HookClient
) -> None:
    spec = ActionSpec(type="test", runner="local", adoptable=True).to_json()
    fields = {"spec": spec, "resumes": job.info.job_id}
    assert sent_registration(client, task.ti_id, "n" * 64, fields).error == (403, "not_proven")
    task.set_state(TaskInstanceState.SUCCESS)
    assert again(task, client).error == (404, "no_such_task_instance")
