# SPDX-License-Identifier: Apache-2.0
"""Kubernetes scene: a deployment whose jobs are pods of a real cluster, and the checks of its tests."""

from __future__ import annotations

from kubernetes import client as k8s
from sqlalchemy import Engine, text

from airflow_asyncaction.runners.pods.exit_status import ACTION_LABEL
from dev.cluster import Cluster
from dev.deployment import Deployment
from tests.system.command_lines import CommandLines
from tests.system.scene import Scene, StoredAction, eventually


class KubeScene(Scene):
    """The deployment shared by all system tests with pods."""

    def __init__(
        self, deployment: Deployment, engine: Engine, command_lines: CommandLines, cluster: Cluster
    ) -> None:
        super().__init__(deployment, engine, deployment.home, command_lines)
        self.cluster = cluster

    def pods(self, action: StoredAction) -> list[k8s.V1Pod]:
        """Return the action's pods, except those that are being deleted."""
        pods = self.cluster.core.list_namespaced_pod(
            self.cluster.namespace, label_selector=f"{ACTION_LABEL}={action.id}"
        )
        return [pod for pod in pods.items if pod.metadata.deletion_timestamp is None]

    def running_pod(self, action: StoredAction) -> k8s.V1Pod:
        """Wait until the action's only pod is running."""

        def look() -> k8s.V1Pod | None:
            pods = self.pods(action)
            assert len(pods) <= 1, pods
            return pods[0] if pods and pods[0].status.phase == "Running" else None

        return eventually(look, f"the pod of {action} runs")

    def assert_cleared_up(self, action: StoredAction, seconds: float = 180) -> None:
        """Wait until all pods and Secrets of the action are deleted."""
        core, namespace = self.cluster.core, self.cluster.namespace
        selector = {"label_selector": f"{ACTION_LABEL}={action.id}"}

        def is_clear() -> bool:
            pods = core.list_namespaced_pod(namespace, **selector).items
            return not pods and not core.list_namespaced_secret(namespace, **selector).items

        eventually(is_clear, f"nothing is left of {action}", seconds)

    def deferred(self, dag_id: str, task_id: str) -> StoredAction:
        """Wait until a task is deferred and its pod is running. Return its action."""
        states = frozenset({"deferred"})
        self.api.wait_for_task(self.key(dag_id, task_id), states, timeout_seconds=120)
        action = self.attempt(dag_id, task_id)
        self.running_pod(action)
        return action

    def worker_pid(self, dag_id: str, task_id: str) -> int:
        """Return the pid of the process that runs a task."""
        return int(self.api.task_instance(self.key(dag_id, task_id))["pid"])

    def job(self, action: StoredAction) -> str:
        """Return the runner's description of the action's pod, as JSON."""
        with self.engine.connect() as connection:
            query = text("SELECT job FROM async_action WHERE id = :id")
            return str(connection.execute(query, {"id": action.id}).scalar_one())
