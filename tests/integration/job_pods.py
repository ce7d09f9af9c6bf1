# SPDX-License-Identifier: Apache-2.0
"""Pods of actions on a real cluster, in the state in which a worker leaves them when it defers its task."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kubernetes import client as k8s
from kubernetes import config as kube_config
from kubernetes.client.exceptions import ApiException

from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.runners.pods.creation import PodOptions
from airflow_asyncaction.runners.pods.return_file import add_return_file
from airflow_asyncaction.runners.pods.spec import add_job, build_job_secret
from airflow_asyncaction.triggers.pods.api import ClusterNamespace
from dev.cluster import SMALL_IMAGE, Cluster

NOBODY = "nobody"
"""Nonexistent scheduler of pods that must stay pending."""

OOM_LIMITS = k8s.V1ResourceRequirements(limits={"memory": "64Mi"})
"""Room for the start of a container (runc itself takes some 15 MiB), too little for OOM_KILLED_CHILD."""

OOM_KILLED_CHILD = "(echo 1000 > /proc/self/oom_score_adj; exec tail /dev/zero) || true"
"""Shell command whose only child takes memory until the kernel kills it.

In a pipe, the other child may need memory before the killed one has released its own: the shell is killed.
"""

OPTIONS = PodOptions(
    container="base",
    stop_grace=timedelta(seconds=2),
    start_timeout=timedelta(seconds=60),
    watch_for=None,
    secret_in_env=False,
    get_logs=True,
    on_finish="delete_pod",
    keep_on_kill=False,
)
"""Runner options of most tests."""


@dataclass(frozen=True)
class JobPod:
    """A pod of an action."""

    info: JobInfo
    core: k8s.CoreV1Api
    name: str
    namespace: str
    uid: str

    @property
    def place(self) -> dict[str, str]:
        """Location of the pod, as passed to triggers."""
        return {"name": self.name, "namespace": self.namespace, "uid": self.uid}

    def delete(self, *, grace_seconds: int = 0) -> None:
        self.core.delete_namespaced_pod(self.name, self.namespace, grace_period_seconds=grace_seconds)

    def read(self) -> k8s.V1Pod | None:
        return _found(lambda: self.core.read_namespaced_pod(self.name, self.namespace))

    def has_secret(self) -> bool:
        return _found(lambda: self.core.read_namespaced_secret(self.name, self.namespace)) is not None

    def wait_until(self, is_so: Callable[[k8s.V1Pod | None], bool], *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not is_so(self.read()):
            assert time.monotonic() < deadline, self.read()
            time.sleep(0.2)

    def wait_until_running(self) -> None:
        self.wait_until(lambda pod: pod is not None and pod.status.phase == "Running")

    def wait_until_ended(self) -> None:
        self.wait_until(lambda pod: pod is not None and pod.status.phase in ("Succeeded", "Failed"))

    def is_going(self) -> bool:
        """Return whether the pod is deleted or being deleted."""
        pod = self.read()
        return pod is None or pod.metadata.deletion_timestamp is not None


@dataclass(frozen=True)
class JobPods:
    """Creates pods in one namespace."""

    cluster: Cluster
    core: k8s.CoreV1Api

    @property
    def place(self) -> ClusterNamespace:
        """Location of the namespace, as Airflow connects to it."""
        return ClusterNamespace(namespace=self.cluster.namespace, config_file=str(self.cluster.kubeconfig))

    def create(
        self,
        script: str = "sleep 300",
        *,
        info: JobInfo | None = None,
        task_key: str | None = None,
        on_finish: str = "delete_pod",
        scheduler: str | None = None,
        secret_in_env: bool = False,
        sidecars: Sequence[k8s.V1Container] = (),
        init: Mapping[str, str] | None = None,
        volumes: Sequence[k8s.V1Volume] = (),
        reads_return_file: bool = False,
        known: Sequence[str] = (),
        **container: Any,
    ) -> JobPod:
        """Create a pod that runs a shell script, and its Secret."""
        info = info or JobInfo(
            job_id=JobId(secrets.token_hex(16)), secret_key="s" * 43, hook_url="http://nobody"
        )
        name = f"job-{secrets.token_hex(5)}"
        mounts = [k8s.V1VolumeMount(name=each.name, mount_path=f"/{each.name}") for each in volumes]
        base = _shell("base", script, volume_mounts=mounts, **container)
        pod = k8s.V1Pod(
            metadata=k8s.V1ObjectMeta(name=name),
            spec=k8s.V1PodSpec(
                containers=[base, *sidecars],
                init_containers=[_shell(name, script) for name, script in (init or {}).items()],
                volumes=list(volumes),
                scheduler_name=scheduler,
                termination_grace_period_seconds=1,
            ),
        )
        if reads_return_file:
            add_return_file(pod, "base")
        add_job(pod, info, task_key=task_key, secret_in_env=secret_in_env, on_finish=on_finish)
        pod = self.core.create_namespaced_pod(self.cluster.namespace, pod)
        if not secret_in_env:
            secret = build_job_secret(pod, info, task_key=task_key, known=known)
            self.core.create_namespaced_secret(self.cluster.namespace, secret)
        return JobPod(info, self.core, name, self.cluster.namespace, pod.metadata.uid)


@contextmanager
def job_pods(cluster: Cluster) -> Iterator[JobPods]:
    """Create pods with administrator permissions. The tested code only has those of its role."""
    with kube_config.new_client_from_config(config_file=str(cluster.admin_kubeconfig)) as client:
        yield JobPods(cluster, k8s.CoreV1Api(client))


def _shell(name: str, script: str, **more: Any) -> k8s.V1Container:
    return k8s.V1Container(
        name=name,
        image=SMALL_IMAGE,
        image_pull_policy="IfNotPresent",
        command=["sh", "-c", script],
        **more,
    )


def _found(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ApiException as error:
        if error.status != 404:
            raise
        return None
