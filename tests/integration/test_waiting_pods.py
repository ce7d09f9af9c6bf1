# SPDX-License-Identifier: Apache-2.0
"""Worker that waits for its pod, on a real cluster with a real server."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest
from airflow.utils.state import TaskInstanceState
from kubernetes import client as k8s
from sqlalchemy import delete

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.operators.attempt import Attempt
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.tasks import ActionSpec, TaskView
from airflow_asyncaction.runners.kubernetes import KubeRunner
from airflow_asyncaction.store.models import action_table
from dev.cluster import SMALL_IMAGE
from tests.integration.databases import Database
from tests.integration.job_pods import OPTIONS, JobPods
from tests.integration.running_tasks import RunningTask

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

# The database is the same to a worker.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("database", ["sqlite"], indirect=True, scope="session"),
]

_SECONDS = 60.0


class Waiting:
    """A task that waits in its worker for a pod that sleeps."""

    def __init__(self, hook_url: str, task: RunningTask, pods: JobPods) -> None:
        self.task = task
        self._pods = pods
        self._label = f"waits-{secrets.token_hex(4)}"
        self._hook = TaskHook(hook_url, ti_id=task.ti_id)
        spec = ActionSpec(type="waits", runner="kubernetes", adoptable=True)
        self.registration = self._hook.register(task.ti_id, task.commit(), spec)
        runner = KubeRunner(
            pods.core,
            self._pod,
            task_labels={"waits": self._label},
            options=replace(OPTIONS, stop_grace=timedelta(seconds=1)),
            write_line=lambda _: None,
        )
        runner.task_key = self.registration.credentials.secret_key
        log = cast("Logger", logging.getLogger("task"))
        interval = timedelta(seconds=0.2)
        self.attempt = Attempt(self._hook, self.registration, runner, log, poll_interval=interval)
        self._thread = threading.Thread(target=self._run)

    def _pod(self, _: JobInfo) -> k8s.V1Pod:
        base = k8s.V1Container(
            name="base", image=SMALL_IMAGE, image_pull_policy="IfNotPresent", command=["sleep", "300"]
        )
        namespace = self._pods.cluster.namespace
        metadata = k8s.V1ObjectMeta(name=self._label, namespace=namespace, labels={"waits": self._label})
        return k8s.V1Pod(metadata=metadata, spec=k8s.V1PodSpec(containers=[base]))

    def start(self) -> None:
        """Carry the action out, as the task's process does, until the pod runs."""
        self._thread.start()
        until(lambda: self.view().state is State.RUNNING)

    def _run(self) -> None:
        try:
            self.attempt.run()
        except ServerError:
            logging.getLogger("task").info("The action's end is not known")

    def kill(self) -> None:
        """Let Airflow end the task's process, and wait for its end."""
        self.attempt.kill()
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive()

    def view(self) -> TaskView:
        return self._hook.clone().read(self.registration.credentials)

    def is_pod_going(self) -> bool:
        return all(
            pod.metadata.deletion_timestamp is not None
            for pod in self._pods.core.list_namespaced_pod(
                self._pods.cluster.namespace, label_selector=f"waits={self._label}"
            ).items
        )


@pytest.fixture
def waiting(mounted: str, new_task: Callable[..., RunningTask], pods: JobPods) -> Waiting:
    waiting = Waiting(mounted, new_task(), pods)
    waiting.task.set_retries(1)
    waiting.start()
    return waiting


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_pod_whose_run_is_deleted_is_stopped_and_its_action_ends(waiting: Waiting) -> None:
    waiting.task.set_state(TaskInstanceState.FAILED)
    waiting.task.delete_run()
    waiting.kill()
    view = waiting.view()
    assert (view.state, view.error_name, view.is_done) == (State.STOPPED, "Killed", True)
    until(waiting.is_pod_going)


def test_a_pod_whose_action_was_deleted_is_stopped(waiting: Waiting, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(delete(action_table).where(action_table.c.id == waiting.registration.info.job_id))
    waiting.kill()
    until(waiting.is_pod_going)
