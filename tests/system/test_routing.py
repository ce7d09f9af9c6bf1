# SPDX-License-Identifier: Apache-2.0
"""Routing: the configuration selects the runners of a Dag. Here, processes and calls."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_asyncaction import exceptions
from tests.system.scene import Scene, assert_gone, eventually

pytestmark = pytest.mark.system

DAG_ID = "routed_by_type"
RESULTS: dict[str, Any] = {
    "loads": {"type": "echo.load", "table": "orders; {{ 6 * 7 }}"},
    "adds": {"type": "sum.total", "numbers": [1, 2]},
}


def assert_results(scene: Scene) -> None:
    """Look at what is the same whatever runs the actions."""
    for task_id, result in RESULTS.items():
        assert scene.state_of(DAG_ID, task_id) == "success"
        assert scene.api.xcoms(scene.key(DAG_ID, task_id))["return_value"] == result
    scene.end_of(DAG_ID)
    mapped = [scene.api.xcoms(scene.key(DAG_ID, "mapped", index))["return_value"] for index in (0, 1)]
    assert mapped == [{"type": "echo.part", "n": 0}, {"type": "echo.part", "n": 1}]
    assert scene.state_of(DAG_ID, "on_worker") == "success"
    assert "return_value" not in scene.api.xcoms(scene.key(DAG_ID, "on_worker"))
    assert_failed(scene, "fails", "ExitCode", "code 3")
    assert_failed(scene, "no_runner", "NoRunner", "No runner handles the type 'elsewhere'")


def assert_failed(scene: Scene, task_id: str, name: str, words: str) -> None:
    assert scene.state_of(DAG_ID, task_id) == "failed"
    action = scene.action(DAG_ID, task_id)
    assert (action.state, action.error_name) == ("ERROR", name)
    assert words in (action.error_message or "")
    errors = [entry.error for entry in scene.api.log(scene.key(DAG_ID, task_id)) if entry.error]
    assert len(errors) == 1
    assert errors[0].startswith(f"{name}: ")
    assert issubclass(getattr(exceptions, name), exceptions.ActionFailed)


def test_actions_run_by_what_is_configured_for_their_types(scene: Scene) -> None:
    assert_results(scene)


def test_each_kind_of_runner_has_launched_what_is_its_own(scene: Scene) -> None:
    scene.end_of(DAG_ID)
    launched = {
        "loads": "Using runner processes (local) for type echo.load",
        "adds": "Using runner calls (service) for type sum.total",
        "fails": "Using runner own (jobs.routed.TellingRunner) for type exits.soon",
    }
    for task_id, said in launched.items():
        assert said in scene.events(DAG_ID, task_id)
    assert "2 numbers" in scene.events(DAG_ID, "adds")
    assert "echoes echo.load" in scene.events(DAG_ID, "loads")


def test_a_runner_of_the_users_own_has_its_options_rendered(scene: Scene) -> None:
    scene.state_of(DAG_ID, "fails")
    assert f"given {{'where': '{DAG_ID}', 'count': 2}} 0:00:03" in scene.events(DAG_ID, "fails")


def test_what_was_looked_at_is_told(scene: Scene) -> None:
    scene.state_of(DAG_ID, "no_runner")
    message = scene.action(DAG_ID, "no_runner").error_message or ""
    assert "processes handles echo.*; calls handles sum.*; own handles exits.*" in message


def test_a_limit_is_a_pool_which_the_api_server_has_made(scene: Scene) -> None:
    scene.state_of(DAG_ID, "adds")
    assert scene.api.task_instance(scene.key(DAG_ID, "adds"))["pool"] == "asyncaction_calls"
    assert scene.api.task_instance(scene.key(DAG_ID, "loads"))["pool"] == "default_pool"


def test_the_example_runs_a_command_by_its_own_nice_runner(scene: Scene) -> None:
    scene.end_of("routed")
    assert "niceness 19" in scene.events("routed", "archive")
    assert scene.events("routed", "load", map_index=1).count("loading orders") == 1


def test_a_task_that_is_marked_failed_ends_its_job(scene: Scene) -> None:
    scene.trigger("routed_stop")
    eventually(lambda: "sleeps" in scene.events("routed_stop", "sleeps"), "the job runs")
    scene.api.set_state(scene.key("routed_stop", "sleeps"), "failed")
    action = scene.ended("routed_stop", "sleeps")
    assert (action.state, action.error_name) == ("STOPPED", "Killed")
    assert_gone(action)
