# SPDX-License-Identifier: Apache-2.0
"""Airflow is upgraded to its next minor release, and back, while ten actions run. None is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from dev.cluster import KUBECONFIG, Cluster
from dev.deployment import Deployment
from tests.requirements import kube_or_skip, next_airflow_or_skip
from tests.shared import SharedServices
from tests.system.command_lines import CommandLines
from tests.system.scene import Scene, StoredAction, eventually

pytestmark = pytest.mark.system

HERE = Path(__file__).parent
CONFIG = {
    "scheduler": {
        "task_instance_heartbeat_timeout": "15",
        "task_instance_heartbeat_timeout_detection_interval": "2",
        "orphaned_tasks_check_interval": "3",
    },
    "core": {"parallelism": "12"},
    "asyncaction": {"poll_interval": "0.5"},
}


@pytest.fixture
def cluster() -> Iterator[Cluster | None]:
    if KUBECONFIG not in os.environ:
        yield None
        return
    with kube_or_skip() as cluster:
        yield cluster


@pytest.fixture
def scene(shared: SharedServices, cluster: Cluster | None, tmp_path: Path) -> Iterator[Scene]:
    folder = tmp_path / "marks"
    folder.mkdir()
    stack = ExitStack()
    environ = {"ASYNCACTION_TEST_FOLDER": str(folder)}
    if cluster is not None:
        port = stack.enter_context(served(folder))
        environ |= {**cluster.environ, "ASYNCACTION_TEST_GO": f"http://{cluster.host}:{port}/go"}
    url = shared.migrated_postgres("upgrade")
    engine = create_engine(url)
    deployment = Deployment(
        tmp_path / "airflow",
        dags=[HERE / "upgrade_dags"],
        database_url=url,
        is_migrated=True,
        config=CONFIG,
        environ=environ,
        pods_reach_us_at=cluster.host if cluster else None,
    )
    with stack:
        stack.callback(engine.dispose)
        command_lines = stack.enter_context(CommandLines())
        stack.enter_context(deployment)
        yield Scene(deployment, engine, folder, command_lines)


def newest(scene: Scene, task_id: str) -> Sequence[StoredAction]:
    """Return the newest action of each of the five mapped tasks that has one."""
    return [actions[-1] for index in range(5) if (actions := scene.actions("upgrading", task_id, index))]


def all_running(scene: Scene, task_id: str) -> Sequence[StoredAction] | None:
    found = newest(scene, task_id)
    return found if [action.state for action in found] == ["RUNNING"] * 5 else None


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """Serve a folder on all interfaces, for pods. Yield the port."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def listed(scene: Scene) -> dict[str, Any]:
    found = scene.api.asyncaction("GET", "/actions", limit="200")["actions"]
    return {each["uuid"]: (each["taskId"], each["mapIndex"], each["status"]) for each in found}


def test_ten_actions_outlive_an_upgrade_and_a_downgrade(scene: Scene, cluster: Cluster | None) -> None:
    newer, older = next_airflow_or_skip(), scene.deployment.python
    scene.api.wait_for_dags({"upgrading", "short"})
    scene.trigger("upgrading")
    tasks = ["local", *(["pod"] if cluster else [])]
    before = {task: eventually(lambda: all_running(scene, task), f"five of {task} run") for task in tasks}  # noqa: B023

    scene.deployment.move_to(newer, "db", "migrate")
    after = {task: eventually(lambda: all_running(scene, task), f"five of {task} go on") for task in tasks}  # noqa: B023
    if cluster is not None:
        assert [each.id for each in after["pod"]] == [each.id for each in before["pod"]]
    (scene.folder / "go").touch()
    assert scene.end_of("upgrading") == "success"
    for task in tasks:
        assert [each.state for each in newest(scene, task)] == ["SUCCESS"] * 5
    scene.trigger("short")
    assert scene.end_of("short") == "success"
    on_newer = listed(scene)

    scene.deployment.move_to(older, "db", "downgrade", "--to-version", "3.3.2", "--yes", is_older=True)
    assert listed(scene) == on_newer
    scene.trigger("short")
    assert scene.end_of("short") == "success"
