# SPDX-License-Identifier: Apache-2.0
"""Pods on a real cluster: what the runner makes of them, and that nothing of it is left."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from kubernetes import client as k8s
from kubernetes import config as kube_config

from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.runners.kubernetes import KubeRunner, PodOptions
from airflow_asyncaction.runners.pod_end import ACTION_LABEL
from airflow_asyncaction.runners.pod_log import LogPosition, PodLine
from airflow_asyncaction.runners.pod_spec import PodSecrets, add_job, secrets_of
from dev.cluster import ACCOUNT, Cluster

pytestmark = pytest.mark.integration

TASK_KEY = "k" * 32
OPTIONS = PodOptions(
    container="base",
    stop_grace=timedelta(seconds=2),
    start_timeout=timedelta(seconds=60),
    let_go_after=None,
    secret_in_env=False,
    get_logs=True,
    on_finish="delete_pod",
    keep_on_kill=False,
)

BEGINNING = LogPosition()


@pytest.fixture
def scene(kube: Cluster) -> Iterator[Scene]:
    scene = Scene(kube)
    yield scene
    scene.expect_nothing_left()


class Scene:
    """One task: its actions, pods and lines."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.core = k8s.CoreV1Api(kube_config.new_client_from_config(config_file=str(cluster.kubeconfig)))
        self.labels = {"dag_id": "d", "task_id": f"t-{secrets.token_hex(4)}"}
        self.lines: list[PodLine] = []
        self.launched = threading.Event()
        self.job: Mapping[str, Any] = {}
        self.info = self.new_info()

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    def new_info(self) -> JobInfo:
        return JobInfo(job_id=JobId(str(uuid.uuid4())), secret_key=secrets.token_hex(16), hook="http://x/y")

    def runner(
        self, command: str = "true", *, position: LogPosition = BEGINNING, **changes: Any
    ) -> KubeRunner:
        container = {
            name: changes.pop(name) for name in ("image", "resources", "env_from") if name in changes
        }
        runner = KubeRunner(
            self.core,
            lambda _: self.pod(command, **container),
            task_labels=self.labels,
            options=replace(OPTIONS, **changes),
            write_line=self.lines.append,
            position=position,
        )
        runner.task_key = TASK_KEY
        return runner

    def pod(self, command: str, *, image: str = "busybox", **container: Any) -> k8s.V1Pod:
        base = k8s.V1Container(
            name="base",
            image=image,
            image_pull_policy="IfNotPresent",
            command=["sh", "-c", command],
            **container,
        )
        name = f"{self.labels['task_id']}-{secrets.token_hex(4)}"
        metadata = k8s.V1ObjectMeta(name=name, namespace=self.cluster.namespace, labels=dict(self.labels))
        return k8s.V1Pod(metadata=metadata, spec=k8s.V1PodSpec(containers=[base], restart_policy="Never"))

    def run(self, runner: KubeRunner, *, releases: bool = True) -> Exit | None:
        exit_ = runner.run(self.info, self.on_launched)
        if releases and exit_ is not None:
            runner.release()
        return exit_

    def ended(self, command: str, **changes: Any) -> Exit:
        exit_ = self.run(self.runner(command, **changes))
        assert exit_ is not None
        return exit_

    def on_launched(self, job: Mapping[str, Any]) -> None:
        self.job = job
        self.launched.set()

    def when_launched(self, *do: Callable[[], object], after_seconds: float = 0) -> threading.Thread:
        def wait() -> None:
            assert self.launched.wait(60)
            time.sleep(after_seconds)
            for each in do:
                each()

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    def pods(self) -> list[k8s.V1Pod]:
        selector = ",".join(f"{name}={value}" for name, value in self.labels.items())
        pods: list[k8s.V1Pod] = self.core.list_namespaced_pod(
            self.cluster.namespace, label_selector=selector
        ).items
        return pods

    def expect_task_key_in_secret_alone(self, name: str) -> None:
        """Expect what a trigger is going to read, and what no container may."""
        assert self.read_secrets(name) == PodSecrets(self.info.secret_key, TASK_KEY)
        core, namespace = self.cluster.core, self.cluster.namespace
        assert TASK_KEY not in str(core.read_namespaced_pod(name, namespace))

    def read_secrets(self, name: str) -> PodSecrets:
        """Return what a trigger reads of a pod's Secret."""
        secret = self.cluster.core.read_namespaced_secret(name, self.cluster.namespace)
        return secrets_of({}, k8s.ApiClient().sanitize_for_serialization(secret))

    def secrets(self) -> list[str]:
        names = self.cluster.core.list_namespaced_secret(
            self.cluster.namespace, label_selector=ACTION_LABEL
        ).items
        return [each.metadata.name for each in names if each.metadata.name.startswith(self.labels["task_id"])]

    def expect_nothing_left(self) -> None:
        deadline = time.monotonic() + 180  # a busy node takes its time with a pod that never started
        while (self.pods() or self.secrets()) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not self.pods()
        assert not self.secrets()


def test_a_pod_that_ends_well(scene: Scene) -> None:
    unseen = f"! env | grep -q {TASK_KEY}"
    exit_ = scene.ended(f'test ${{#JOB_SECRET_KEY}} = 32 && {unseen} && echo "for $JOB_ID"')
    assert exit_ == Exit(code=0, tail=(f"for {scene.info.job_id}",))
    assert scene.texts == [f"for {scene.info.job_id}"]
    assert scene.job["pod"].startswith(scene.labels["task_id"])
    assert set(scene.job) == {"pod", "namespace", "node", "uid"}


def test_a_pod_that_fails_tells_its_last_lines(scene: Scene) -> None:
    exit_ = scene.ended("seq 1 30; exit 3")
    assert (exit_.code, exit_.reason) == (3, None)
    assert list(exit_.tail) == [str(number) for number in range(11, 31)]


def test_a_pod_that_uses_too_much_memory(scene: Scene) -> None:
    limits = k8s.V1ResourceRequirements(limits={"memory": "20Mi"})
    exit_ = scene.ended("head -c 200m /dev/zero | tail", resources=limits)
    assert exit_.reason == "OOMKilled"


def test_an_image_that_is_not_there(scene: Scene) -> None:
    exit_ = scene.ended("true", image="127.0.0.1:1/nothing:1")
    assert exit_.reason == "ImagePull"
    assert "127.0.0.1:1/nothing:1" in (exit_.message or "")


@pytest.mark.parametrize("kind", ["config_map", "secret"])
def test_configuration_that_is_not_there(scene: Scene, kind: str) -> None:
    make = {"config_map": k8s.V1ConfigMapEnvSource, "secret": k8s.V1SecretEnvSource}[kind]
    exit_ = scene.ended("true", env_from=[k8s.V1EnvFromSource(**{f"{kind}_ref": make(name="nowhere")})])
    assert exit_.reason == "CreateContainerConfigError"
    assert '"nowhere" not found' in (exit_.message or "")


def test_a_pod_that_no_node_takes(scene: Scene) -> None:
    much = k8s.V1ResourceRequirements(requests={"cpu": "1000"})
    began_at = time.monotonic()
    exit_ = scene.ended("true", resources=much, start_timeout=timedelta(seconds=3))
    assert exit_.reason == "Unschedulable"
    assert "Insufficient cpu" in (exit_.message or "")
    assert time.monotonic() - began_at > 2.5


@pytest.mark.parametrize("grace_seconds", [1, 0])
def test_a_pod_that_somebody_deletes(scene: Scene, grace_seconds: int) -> None:
    def delete() -> None:
        scene.core.delete_namespaced_pod(
            scene.job["pod"], scene.cluster.namespace, grace_period_seconds=grace_seconds
        )

    thread = scene.when_launched(delete)
    exit_ = scene.ended("sleep 100")
    thread.join()
    assert exit_.reason == "PodDeleted"
    assert exit_.is_seen is (exit_.code is not None)  # without grace, it may be gone before its node has told


def test_the_pods_secret_holds_what_airflow_masks_of_what_the_pod_is_given(
    scene: Scene, mask: Callable[[list[str]], None]
) -> None:
    mask(["the password", "of the arguments", "not the pod's"])
    scene.info = replace(scene.info, arguments=JsonText('{"x": "of the arguments"}'))
    runner = scene.runner("echo it is the password; sleep 3; exit 3")
    read: list[PodSecrets] = []
    thread = scene.when_launched(lambda: read.append(scene.read_secrets(runner.pod["name"])))
    exit_ = scene.run(runner)
    thread.join()
    assert read[0].known == {"the password", "of the arguments"}
    assert exit_ is not None
    assert list(exit_.tail) == ["it is ***"]


def test_the_next_worker_adopts_the_running_pod_and_goes_on_with_its_log(scene: Scene) -> None:
    first = scene.runner("echo one; sleep 6; echo two; exit 4")
    thread = scene.when_launched(first.orphaned, after_seconds=2)
    assert scene.run(first) is None
    thread.join()
    scene.expect_task_key_in_secret_alone(first.pod["name"])
    second = scene.runner("echo another pod", position=first.position)
    second.expect_job()
    exit_ = scene.run(second)
    assert exit_ is not None
    assert exit_.code == 4
    assert second.pod == first.pod
    assert scene.texts == ["one", "two"]


def test_a_pod_that_should_be_there_and_is_gone_was_not_seen(scene: Scene) -> None:
    runner = scene.runner()
    runner.expect_job()
    exit_ = scene.run(runner)
    assert exit_ is not None
    assert (exit_.reason, exit_.is_seen) == ("PodDeleted", False)


def test_the_pod_of_an_earlier_try_is_deleted(scene: Scene) -> None:
    earlier = scene.pod("sleep 100")
    add_job(earlier, scene.new_info(), task_key="t", secret_in_env=True, on_finish="delete_pod")
    scene.core.create_namespaced_pod(scene.cluster.namespace, earlier)
    assert scene.ended("true").code == 0


def test_a_crash_between_the_pod_and_its_secret(scene: Scene) -> None:
    pod = scene.pod("echo hello")
    add_job(pod, scene.info, task_key="t", secret_in_env=False, on_finish="delete_pod")
    scene.core.create_namespaced_pod(scene.cluster.namespace, pod)
    time.sleep(3)  # its node says that there is no Secret
    runner = scene.runner("echo another pod")
    runner.expect_job()
    assert scene.run(runner) == Exit(code=0, tail=("hello",))


def test_no_right_on_secrets(scene: Scene, kube: Cluster) -> None:
    rbac = k8s.RbacAuthorizationV1Api(kube.core.api_client)
    role = rbac.read_namespaced_role(ACCOUNT, kube.namespace)
    few = [rule for rule in role.rules if "secrets" not in rule.resources]
    _set_rules(rbac, kube, few)
    try:
        exit_ = scene.ended("true")
        assert exit_.reason == "SecretRefused"
        for part in ('"resources": ["secrets"]', 'job_secret="env"', "forbidden", kube.namespace):
            assert part in (exit_.message or "")
        scene.expect_nothing_left()
        assert scene.ended("test ${#JOB_SECRET_KEY} = 32", secret_in_env=True).code == 0
    finally:
        _set_rules(rbac, kube, role.rules)


def _set_rules(rbac: k8s.RbacAuthorizationV1Api, cluster: Cluster, rules: list[Any]) -> None:
    rbac.patch_namespaced_role(
        ACCOUNT, cluster.namespace, [{"op": "replace", "path": "/rules", "value": rules}]
    )
    time.sleep(1)  # the API server sees it a little later


def test_a_pod_that_the_cluster_refuses(scene: Scene) -> None:
    exit_ = scene.ended("true", resources=k8s.V1ResourceRequirements(limits={"memory": "-1"}))
    assert exit_.reason == "PodRefused"
    assert "must be greater than or equal to 0" in (exit_.message or "")


def test_a_pod_is_let_go_after_a_while(scene: Scene) -> None:
    runner = scene.runner("echo one; sleep 4; echo two", let_go_after=timedelta(seconds=2))
    assert scene.run(runner) is None
    assert len(scene.pods()) == 1
    time.sleep(0.5)
    threads = {thread.name for thread in threading.enumerate()}
    assert "asyncaction-pod-events" not in threads
    following = scene.runner(position=runner.position)
    following.expect_job()
    assert scene.run(following) is not None
    assert scene.texts == ["one", "two"]


@pytest.mark.parametrize(
    ("command", "code"),
    [("trap 'echo bye; exit 7' TERM; sleep 100 & wait", 7), ("trap '' TERM; while :; do sleep 1; done", 137)],
)
def test_a_pod_is_stopped_with_grace(scene: Scene, command: str, code: int) -> None:
    runner = scene.runner(command)
    thread = scene.when_launched(runner.stop, runner.stop, after_seconds=1)
    exit_ = scene.run(runner)
    thread.join()
    assert exit_ is not None
    assert exit_.code == code
    assert scene.texts == (["bye"] if code == 7 else [])


def test_a_stop_before_the_start_starts_nothing(scene: Scene) -> None:
    runner = scene.runner()
    runner.stop()
    exit_ = scene.run(runner)
    assert exit_ is not None
    assert exit_.reason == "Stopped"
    assert not scene.pods()


def test_a_stop_before_an_adopted_pod_is_looked_at_deletes_it(scene: Scene) -> None:
    first = scene.runner("sleep 100", let_go_after=timedelta(seconds=0))
    assert scene.run(first) is None
    second = scene.runner()
    second.expect_job()
    second.stop()
    exit_ = scene.run(second)
    assert exit_ is not None
    assert "was not started" not in (exit_.message or "")
    assert all(pod.metadata.deletion_timestamp is not None for pod in scene.pods())


def test_a_kept_pod_loses_its_secret(scene: Scene) -> None:
    assert scene.ended("exit 1", on_finish="delete_succeeded_pod").code == 1
    (pod,) = scene.pods()
    assert scene.secrets() == []
    scene.core.delete_namespaced_pod(pod.metadata.name, scene.cluster.namespace, grace_period_seconds=0)


def test_the_pod_is_there_until_the_server_knows(scene: Scene) -> None:
    runner = scene.runner()
    scene.run(runner, releases=False)
    time.sleep(1)
    assert len(scene.pods()) == 1
    runner.release()


def test_a_burst_in_the_last_second_is_all_there(scene: Scene) -> None:
    # It lives on for a moment, since a busy node drops what is in a container's pipe when it ends.
    exit_ = scene.ended("seq 1 50000; sleep 0.8")
    assert exit_.code == 0
    assert scene.texts == [str(number) for number in range(1, 50_001)]
    times = [line.time for line in scene.lines]
    assert times == sorted(times)
