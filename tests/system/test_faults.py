# SPDX-License-Identifier: Apache-2.0
"""Processes of Airflow are killed while jobs run: no job is left behind, no report is lost."""

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
def faults(scene: Scene) -> None:
    scene.trigger("faults")


@pytest.mark.usefixtures("faults")
def test_a_killed_task_process_takes_its_job_along(scene: Scene) -> None:
    first = scene.up("faults", "task_killed")
    os.kill(task_process_of(first), signal.SIGKILL)
    assert_gone(first)
    assert_tried_again(scene, first, "task_killed")


@pytest.mark.usefixtures("faults")
def test_a_killed_supervisor_takes_its_job_along(scene: Scene) -> None:
    orphans = [scene.up("faults", task_id) for task_id in SUPERVISED]
    for orphan in orphans:
        os.kill(parent_of(task_process_of(orphan)), signal.SIGKILL)
    for orphan in orphans:
        assert_gone(orphan)
    for task_id, orphan in zip(SUPERVISED, orphans, strict=True):
        assert_tried_again(scene, orphan, task_id)


@pytest.mark.usefixtures("faults")
def test_a_killed_scheduler_takes_its_jobs_along(scene: Scene) -> None:
    first = scene.up("faults", "scheduler_killed")
    scheduler = scene.deployment.scheduler
    assert scheduler.pid is not None
    kill_with_descendants(scheduler.pid, but=guard_of(first))
    scheduler.wait(60)
    assert_gone(first)
    scheduler.start()
    scene.deployment.wait_until_healthy()
    assert_tried_again(scene, first, "scheduler_killed")


def assert_tried_again(scene: Scene, first: StoredAction, task_id: str) -> None:
    second = scene.ended("faults", task_id, 2)
    assert (second.state, second.results) == ("SUCCESS", '"second time lucky"')
    again = scene.attempt("faults", task_id, 1)
    assert again.id == first.id
    assert (again.state, again.fenced) == ("STOPPED", True)
    assert scene.late_report(again) == (410, "superseded")
    assert scene.state_of("faults", task_id) == "success"


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
