# SPDX-License-Identifier: Apache-2.0
"""Airflow's processes are killed while jobs run: no job is orphaned and no report lost."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from dev.deployment import USER
from tests.system.scene import Scene, StoredAction, assert_gone, eventually
from tests.system.users import User
from tests.unit.live_processes import all_pids, kill_with_descendants, parent_of

pytestmark = pytest.mark.system

OUTAGE_SECONDS = 8
SUPERVISED = ("supervisor_killed", "supervisor_of_talker_killed")
LOST = ("scheduler_killed", "marked_failed")


def test_what_is_scheduled_outlives_airflow(scene: Scene) -> None:
    user = User(scene.deployment, USER)
    at = datetime.now(UTC) + timedelta(seconds=OUTAGE_SECONDS)
    when = quote(at.isoformat())
    uuid = user.launch("echo.said", {"text": "after all"}, f"?schedule={when}")["uuid"]
    for process in (scene.deployment.api_server, scene.deployment.scheduler):
        process.kill()
    time.sleep(OUTAGE_SECONDS)
    for process in (scene.deployment.api_server, scene.deployment.scheduler):
        process.start()
    scene.deployment.wait_until_healthy()
    assert user.wait(uuid)["results"] == {"type": "echo.said", "text": "after all"}


def test_a_job_reports_over_an_outage_of_the_api_server(scene: Scene) -> None:
    scene.trigger("outage")
    action = scene.up("outage", "outlive")
    scene.deployment.api_server.kill()
    time.sleep(OUTAGE_SECONDS)
    scene.deployment.api_server.start()
    scene.deployment.wait_until_healthy()
    (scene.folder / "api-server-is-back").touch()
    assert scene.state_of("outage", "outlive") == "success"
    action = scene.action("outage", "outlive")
    assert action.state == "SUCCESS"
    count = scene.api.xcoms(scene.key("outage", "outlive"))["return_value"]["lines"]
    assert count > OUTAGE_SECONDS
    events = scene.events("outage", "outlive")
    printed, reported = (
        [f"{how} {number}" for number in range(1, count + 1)] for how in ("printed", "reported")
    )
    assert [event for event in events if event.startswith("printed ")] == printed
    assert [event for event in events if event.startswith("reported ")] == reported
    assert scene.reported_lines(action) == reported


@pytest.fixture(scope="module")
def first_tries(scene: Scene) -> dict[str, StoredAction]:
    """Return the actions of first tries that were killed: Airflow notices the last ones at the same time.

    Each was gone at once, though nothing of Airflow was there to end it. The host of those of ``lost_host``
    was lost: of one of them, not even its guard is left.
    """
    scene.trigger("faults", "lost_host")
    first = {task_id: scene.up("faults", task_id) for task_id in ("task_killed", *SUPERVISED)}
    first |= {task_id: scene.up("lost_host", task_id) for task_id in LOST}
    os.kill(task_process_of(first["task_killed"]), signal.SIGKILL)
    assert_gone(first["task_killed"])
    scene.ended("faults", "task_killed", 2)
    for task_id in SUPERVISED:
        os.kill(parent_of(task_process_of(first[task_id])), signal.SIGKILL)
    for task_id in SUPERVISED:
        assert_gone(first[task_id])
    scheduler = scene.deployment.scheduler
    assert scheduler.pid is not None
    kill_with_descendants(scheduler.pid, but=guard_of(first["scheduler_killed"]))
    scheduler.wait(60)
    for task_id in LOST:
        assert_gone(first[task_id])
    scene.api.set_state(scene.key("lost_host", "marked_failed"), "failed")
    scheduler.start()
    scene.deployment.wait_until_healthy()
    return first


@pytest.mark.parametrize(
    ("dag_id", "task_id"),
    [
        ("faults", "task_killed"),
        ("faults", "supervisor_killed"),
        ("faults", "supervisor_of_talker_killed"),
        ("lost_host", "scheduler_killed"),
    ],
)
def test_a_killed_process_takes_its_job_along_and_the_task_is_tried_again(
    scene: Scene, first_tries: dict[str, StoredAction], dag_id: str, task_id: str
) -> None:
    first, second = first_tries[task_id], scene.ended(dag_id, task_id, 2)
    assert (second.state, second.results) == ("SUCCESS", '"second time lucky"')
    again = scene.attempt(dag_id, task_id, 1)
    assert again.id == first.id
    assert (again.state, again.fenced) == ("STOPPED", True)
    assert scene.late_report(again) == (410, "superseded")
    assert scene.state_of(dag_id, task_id) == "success"


@pytest.mark.usefixtures("first_tries")
def test_what_a_lost_host_has_left_is_ended_by_the_api_server(scene: Scene) -> None:
    assert scene.state_of("lost_host", "marked_failed") == "failed"
    action = scene.ended("lost_host", "marked_failed")
    assert (action.state, action.error_name, action.fenced) == ("STOPPED", "Killed", True)
    assert scene.late_report(action) == (410, "superseded")


def guard_of(action: StoredAction) -> int:
    """Return the process that has an action's id on its command line."""

    def look() -> int:
        return next((pid for pid in all_pids() if action.id in command_of(pid)), 0)

    return eventually(look, f"the guard of {action}")


def task_process_of(action: StoredAction) -> int:
    return parent_of(guard_of(action))


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
