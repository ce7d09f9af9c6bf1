# SPDX-License-Identifier: Apache-2.0
"""Loops of Airflow 3.4: each iteration has actions of its own, and a stop reaches the right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.system.scene import Scene, eventually

pytestmark = pytest.mark.system


@pytest.fixture(scope="module", autouse=True)
def runs(shared_scene: Scene) -> None:
    dag_ids = ("loops", "retried_loops", "stopped_loops", "waiting_loops", "waiting_mapped_loops")
    shared_scene.api.wait_for_dags(set(dag_ids))
    shared_scene.trigger(*dag_ids)


def actions(scene: Scene, dag_id: str) -> Sequence[dict[str, Any]]:
    """Return all actions of the run as the API lists them, oldest first."""
    query = {"dag": dag_id, "run": scene.runs[dag_id], "limit": "100"}
    listed = scene.api.asyncaction("GET", "/actions", **query)["actions"]
    return sorted(listed, key=lambda action: str(action["createdAt"]))


def test_each_iteration_has_actions_of_its_own(scene: Scene) -> None:
    assert scene.end_of("loops") == "success"
    found = actions(scene, "loops")
    ends = {(each["taskId"], each["iteration"], each["mapIndex"]): each["status"] for each in found}
    assert ends == {
        **{("body.echo", iteration, -1): "SUCCESS" for iteration in range(3)},
        **{("body.each", iteration, index): "SUCCESS" for iteration in range(3) for index in range(2)},
        **{("body.count", iteration, -1): "SUCCESS" for iteration in range(3)},
    }
    assert len(found) == len(ends)
    messages = {each["iteration"]: each["message"] for each in found if each["taskId"] == "body.count"}
    assert messages == {iteration: f"iteration {iteration}" for iteration in range(3)}


def test_a_cleared_iteration_runs_again_alone(scene: Scene) -> None:
    scene.end_of("loops")
    instances = scene.api.task_instances("loops", scene.runs["loops"])
    (second,) = (
        each["id"]
        for each in instances
        if each["task_id"] == "body.echo" and each["loop_iteration"]["iteration"] == 1
    )
    scene.api.clear_instances("loops", scene.runs["loops"], [second])

    def tries() -> list[tuple[int, int, str]]:
        found = (each for each in actions(scene, "loops") if each["taskId"] == "body.echo")
        return sorted((each["iteration"], each["attempt"], each["status"]) for each in found)

    expected = [(0, 1, "SUCCESS"), (1, 1, "SUCCESS"), (1, 2, "SUCCESS"), (2, 1, "SUCCESS")]
    eventually(lambda: tries() == expected, "the second iteration runs again")
    assert scene.end_of("loops") == "success"
    assert tries() == expected


def test_an_iteration_that_fails_is_tried_again_alone(scene: Scene) -> None:
    assert scene.end_of("retried_loops") == "success"
    found = actions(scene, "retried_loops")
    tries = [(each["iteration"], each["attempt"], each["status"]) for each in found]
    assert tries == [(0, 1, "SUCCESS"), (1, 1, "ERROR"), (1, 2, "SUCCESS")]
    first, second, third = (scene.api.asyncaction("GET", f"/actions/{each['uuid']}") for each in found)
    assert [each["nextAttempt"] for each in (first, second, third)] == [None, third["uuid"], None]
    assert [each["isFinal"] for each in (first, second, third)] == [True, False, True]


def test_a_stop_reaches_the_iteration(scene: Scene) -> None:
    def asleep() -> dict[str, Any] | None:
        running = (each for each in actions(scene, "stopped_loops") if each["status"] == "RUNNING")
        return next((each for each in running if each["iteration"] == 1), None)

    action = eventually(asleep, "the second iteration sleeps")
    scene.api.asyncaction("PUT", f"/actions/{action['uuid']}/stop")
    assert scene.end_of("stopped_loops") == "failed"
    ends = {(each["iteration"], each["mapIndex"]): each["status"] for each in actions(scene, "stopped_loops")}
    assert ends == {(0, 0): "SUCCESS", (0, 1): "SUCCESS", (1, 0): "SUCCESS", (1, 1): "STOPPED"}


@pytest.mark.parametrize("dag_id", ["waiting_loops", "waiting_mapped_loops"])
def test_a_stop_keeps_an_iteration_from_its_next_try(scene: Scene, dag_id: str) -> None:
    def failed() -> dict[str, Any] | None:
        return next((each for each in actions(scene, dag_id) if each["status"] == "ERROR"), None)

    action = eventually(failed, "the second iteration fails")
    assert action["iteration"] == 1
    scene.api.asyncaction("PUT", f"/actions/{action['uuid']}/stop")
    assert scene.end_of(dag_id) == "failed"
    assert {each["attempt"] for each in actions(scene, dag_id)} == {1}
