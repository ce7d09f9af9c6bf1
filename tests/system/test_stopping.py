# SPDX-License-Identifier: Apache-2.0
"""Stopping: a job ends with its task, however that ends, and all its processes with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.scene import Scene, StoredAction, assert_gone, eventually, processes_of

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("jobs")]

Jobs = dict[str, StoredAction]


@pytest.fixture(scope="module")
def jobs(scene: Scene) -> Jobs:
    """Return the actions of jobs that were up, and whose tasks were ended then; all at the same time."""
    scene.trigger("clocks", "stops", "stopped_run")
    tasks = ("obedient", "stubborn", "cleared", "polite", "deaf")
    jobs = {task_id: scene.up("stops", task_id) for task_id in tasks}
    jobs["stopped_run"] = scene.up("stopped_run", "ignore")
    assert all(processes_of(jobs[task_id]) for task_id in ("obedient", "stubborn", "cleared", "stopped_run"))
    for task_id in ("obedient", "stubborn", "polite", "deaf"):
        scene.api.set_state(scene.key("stops", task_id), "failed")
    scene.api.clear(scene.key("stops", "cleared"))
    scene.api.set_run_state("stopped_run", scene.runs["stopped_run"], "failed")
    return jobs


def assert_stopped(scene: Scene, dag_id: str, task_id: str) -> StoredAction:
    action = scene.ended(dag_id, task_id)
    assert_gone(action)
    assert (action.state, action.error_name, action.verb) == ("STOPPED", "Killed", "STOP")
    return action


def test_a_job_is_requested_to_stop_when_its_task_is_marked_failed(scene: Scene) -> None:
    action = assert_stopped(scene, "stops", "obedient")
    assert scene.mark(action, "verb") == "STOP"
    assert scene.reported_lines(action) == ["asked to stop"]
    assert scene.state_of("stops", "obedient") == "failed"


@pytest.mark.parametrize(("task_id", "error_name"), [("polite", "InterruptedError"), ("deaf", "Killed")])
def test_a_callable_is_requested_to_stop_then_interrupted(
    scene: Scene, task_id: str, error_name: str
) -> None:
    action = scene.ended("stops", task_id)
    assert (action.state, action.error_name, action.verb) == ("STOPPED", error_name, "STOP")
    assert scene.reported_lines(action) == ["asked to stop"]
    assert scene.state_of("stops", task_id) == "failed"


@pytest.mark.parametrize(("dag_id", "task_id"), [("stops", "stubborn"), ("stopped_run", "ignore")])
def test_a_job_that_ignores_sigterm_is_killed_with_all_that_it_started(
    scene: Scene, dag_id: str, task_id: str
) -> None:
    action = assert_stopped(scene, dag_id, task_id)
    child = int(scene.mark(action, "child"))
    eventually(lambda: not Path(f"/proc/{child}").exists(), "the child that left the session is gone")
    assert scene.late_report(action) in ((409, "already_ended"), (410, "superseded"))
    assert scene.state_of(dag_id, task_id) == "failed"


def test_a_cleared_task_runs_again_and_its_first_action_is_fenced(scene: Scene, jobs: Jobs) -> None:
    second = scene.ended("stops", "cleared", 2)
    first = scene.attempt("stops", "cleared", 1)
    assert (second.state, second.results) == ("SUCCESS", '"cleared"')
    assert (first.id, first.state, first.fenced) == (jobs["cleared"].id, "STOPPED", True)
    assert_gone(first)
    assert scene.late_report(first) == (410, "superseded")
    assert scene.state_of("stops", "cleared") == "success"


@pytest.mark.parametrize(
    ("task_id", "error_name"),
    [
        ("execution_timeout", "ExecutionTimeout"),
        ("timed_out", "Unfinished"),
        ("heartbeat_timeout", "HeartbeatTimeout"),
        ("start_timeout", "JobNeverStarted"),
    ],
)
def test_a_clock_that_runs_out_ends_job_and_task(scene: Scene, task_id: str, error_name: str) -> None:
    assert scene.state_of("clocks", task_id) == "failed"
    action = scene.ended("clocks", task_id)
    assert (action.state, action.error_name) == ("TIMEOUT", error_name)
    assert_gone(action)
    assert scene.late_report(action)[0] in (409, 410)


def test_submitted_work_ends_with_its_report(scene: Scene) -> None:
    assert scene.state_of("clocks", "submitted") == "success"
    assert scene.api.xcoms(scene.key("clocks", "submitted"))["return_value"] == "it was done elsewhere"
