# SPDX-License-Identifier: Apache-2.0
"""Remote operations: tasks wait for operations of another deployment, here of the same one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import pytest

from airflow_asyncaction.hooks.async_action import AsyncActionHook
from airflow_asyncaction.hooks.remote_models import RemoteAction
from airflow_asyncaction.protocol.actions import State
from dev.airflow_api import TaskKey
from dev.deployment import USER
from tests.system.scene import PATIENCE_SECONDS, Scene, eventually

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("started")]

ATTENDED = ("killed", "killed_deferred", "stopped_there")
BETWEEN_TRIES = ("killed_between_tries", "killed_between_tries_deferred")


@pytest.fixture(scope="module")
def hook(scene: Scene) -> Iterator[AsyncActionHook]:
    """Return a hook to the deployment, which has the same connection to itself."""
    fields = {
        "conn_type": "asyncaction",
        "host": f"{scene.deployment.base_url}/async",
        "login": USER,
        "password": scene.deployment.password,
    }
    scene.api.create_connection("itself", fields)
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("AIRFLOW_CONN_ITSELF", json.dumps(fields))
        yield AsyncActionHook("itself")


@pytest.fixture(scope="module")
def started(scene: Scene, hook: AsyncActionHook) -> None:
    """Start all tasks at once; once their jobs are up, stop one of these and mark two tasks failed."""
    scene.api.wait_for_dags({"remote_work", "remote_ends", "remote_stops"}, timeout_seconds=PATIENCE_SECONDS)
    scene.trigger("remote_ends", "remote_stops")
    ids = {name: up(scene, name) for name in ATTENDED}
    await_trigger(scene, "killed_deferred")
    for task_id in ("killed", "killed_deferred"):
        scene.api.set_state(scene.key("remote_stops", task_id), "failed")
    hook.stop(ids["stopped_there"])
    for task_id in BETWEEN_TRIES:
        eventually(partial(awaits_next_try, scene, hook, task_id), f"{task_id} awaits the next try")
        if task_id.endswith("deferred"):
            await_trigger(scene, task_id)
        scene.api.set_state(scene.key("remote_stops", task_id), "failed")


def await_trigger(scene: Scene, task_id: str) -> None:
    """Wait until the triggerer watches the action of a task. It does not notice an earlier kill."""
    key = scene.key("remote_stops", task_id)
    scene.api.wait_for_task(key, frozenset({"deferred"}), timeout_seconds=PATIENCE_SECONDS)
    look = f"/async/actions/{scene.api.xcoms(key)['action_id']}/changes"

    def looks() -> int:
        return scene.deployment.api_server.log.read_text().count(look)

    looks_before = looks()
    eventually(lambda: looks() > looks_before, f"a trigger watches the action of {task_id}")


def awaits_next_try(scene: Scene, hook: AsyncActionHook, task_id: str) -> bool:
    """Return whether a task's action has failed, and Airflow has put its task off."""
    action_id = scene.api.xcoms(scene.key("remote_stops", task_id)).get("action_id")
    if action_id is None:
        return False
    row = hook.get(action_id).fields
    key = TaskKey(row["dagId"], row["runId"], row["taskId"], row["mapIndex"])
    return str(scene.api.task_instance(key)["state"]) == "up_for_retry"


def up(scene: Scene, name: str) -> str:
    """Wait for the job of a task's operation; return its action's id."""
    path = scene.folder / f"{name}.up"
    return eventually(lambda: path.read_text() if path.exists() else None, f"{name} is up")


def launched_by(scene: Scene, hook: AsyncActionHook, dag_id: str, task_id: str) -> RemoteAction:
    """Return the action that a task has launched."""
    return hook.get(scene.api.xcoms(scene.key(dag_id, task_id))["action_id"])


@pytest.mark.parametrize("task_id", ["waits", "defers"])
def test_results_progress_and_log_lines_come_from_there(
    scene: Scene, hook: AsyncActionHook, task_id: str
) -> None:
    assert scene.state_of("remote_ends", task_id) == "success"
    assert scene.api.xcoms(scene.key("remote_ends", task_id))["return_value"] == {"did": task_id}
    action = launched_by(scene, hook, "remote_ends", task_id)
    assert (action.state, action.results, action.type) == (State.SUCCESS, {"did": task_id}, "remote.work")
    assert action.fields["requestedBy"] == USER
    events = scene.events("remote_ends", task_id)
    for line in (f"a line of {task_id}", f"the last line of {task_id}"):
        assert events.count(line) == 1, events
    assert f"progress 40%: half of {task_id}" in events
    lines = hook.logs(action.uuid).lines
    assert [line.message for line in lines] == [f"a line of {task_id}", f"the last line of {task_id}"]


@pytest.mark.parametrize("task_id", ["waits_for_skip", "defers_for_skip"])
def test_a_task_is_skipped_with_the_operation_that_it_waits_for(
    scene: Scene, hook: AsyncActionHook, task_id: str
) -> None:
    assert scene.state_of("remote_ends", task_id) == "skipped"
    action = launched_by(scene, hook, "remote_ends", task_id)
    assert (action.is_skipped, action.is_final) == (True, True)
    assert action.error_message == f"nothing for {task_id} today"


@pytest.mark.parametrize("task_id", ["waits_for_failure", "defers_for_failure"])
def test_its_error_is_the_tasks(scene: Scene, hook: AsyncActionHook, task_id: str) -> None:
    assert scene.state_of("remote_ends", task_id) == "failed"
    action = launched_by(scene, hook, "remote_ends", task_id)
    said = f"{task_id} has no table orders"
    assert (action.state, action.error_name, action.error_message) == (State.ERROR, "LookupError", said)
    errors = [entry.error for entry in scene.api.log(scene.key("remote_ends", task_id)) if entry.error]
    assert errors == [f"ActionFailed: LookupError: {said}"]


@pytest.mark.parametrize("task_id", ["waits_for_retry", "defers_for_retry"])
def test_an_operation_that_is_tried_again_there_is_waited_for(scene: Scene, task_id: str) -> None:
    assert scene.state_of("remote_ends", task_id) == "success"
    assert scene.api.xcoms(scene.key("remote_ends", task_id))["return_value"] == 2
    assert any("Its retry is" in line for line in scene.events("remote_ends", task_id))


def test_a_task_need_not_wait_for_what_is_scheduled(scene: Scene, hook: AsyncActionHook) -> None:
    assert scene.state_of("remote_ends", "launches") == "success"
    action = launched_by(scene, hook, "remote_ends", "launches")
    assert action.state is State.SCHEDULED
    assert scene.api.xcoms(scene.key("remote_ends", "launches"))["return_value"] == action.uuid
    assert hook.stop(action.uuid).state is State.STOPPED


@pytest.mark.parametrize("task_id", ["killed", "killed_deferred"])
def test_who_ends_the_task_stops_the_operation(scene: Scene, hook: AsyncActionHook, task_id: str) -> None:
    assert scene.state_of("remote_stops", task_id) == "failed"
    action = hook.wait(up(scene, task_id), timeout=timedelta(minutes=2))
    assert (action.state, action.error_name) == (State.STOPPED, "InterruptedError")


@pytest.mark.parametrize("task_id", BETWEEN_TRIES)
def test_who_ends_the_task_between_two_tries_prevents_the_next_one(
    scene: Scene, hook: AsyncActionHook, task_id: str
) -> None:
    assert scene.state_of("remote_stops", task_id) == "failed"
    action = launched_by(scene, hook, "remote_stops", task_id)
    done = hook.wait(action.uuid, timeout=timedelta(minutes=2))
    assert (done.uuid, done.state, done.next_attempt) == (action.uuid, State.ERROR, None)


@pytest.mark.parametrize("task_id", ["late", "late_deferred"])
def test_a_task_that_runs_out_of_time_stops_the_operation(
    scene: Scene, hook: AsyncActionHook, task_id: str
) -> None:
    assert scene.state_of("remote_stops", task_id) == "failed"
    action = launched_by(scene, hook, "remote_stops", task_id)
    assert hook.wait(action.uuid, timeout=timedelta(minutes=2)).state is State.STOPPED


def test_what_is_stopped_there_is_not_tried_again(scene: Scene, hook: AsyncActionHook) -> None:
    assert scene.state_of("remote_stops", "stopped_there") == "failed"
    assert scene.api.task_instance(scene.key("remote_stops", "stopped_there"))["try_number"] == 1
    action = hook.wait(up(scene, "stopped_there"), timeout=timedelta(minutes=2))
    assert (action.state, action.stop_reason) == (State.STOPPED, "Requested")


def test_operations_and_their_actions_are_listed(scene: Scene, hook: AsyncActionHook) -> None:
    operation = hook.operations(full=True)["remote_work"]
    assert (operation.type, operation.description) == ("remote.work", "Behave as the caller requests.")
    assert set(operation.input["properties"]) == {"does", "name"}
    found = {action.uuid for action in hook.list(type="remote.work", page_size=3)}
    assert {up(scene, name) for name in ATTENDED} <= found
    ok, said = hook.test_connection()
    assert (ok, said.partition(" (")[0]) == (
        True,
        f"Operations that the user may launch: {len(hook.operations())}",
    )


def test_no_log_shows_the_password(scene: Scene) -> None:
    scene.end_of("remote_ends")
    for task_id in ("waits", "defers"):
        assert scene.deployment.password not in scene.api.log_text(scene.key("remote_ends", task_id))
