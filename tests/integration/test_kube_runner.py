# SPDX-License-Identifier: Apache-2.0
"""Kubernetes runner on a real cluster: pods run as specified and are cleaned up."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest
from kubernetes import client as k8s
from kubernetes import config as kube_config

from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.runners.kubernetes import KubeRunner
from airflow_asyncaction.runners.pods.creation import PodOptions
from airflow_asyncaction.runners.pods.exit_status import ACTION_LABEL
from airflow_asyncaction.runners.pods.log import LogPosition, PodLine
from airflow_asyncaction.runners.pods.return_file import RETURN_FILE, ReturnFile, add_return_file
from airflow_asyncaction.runners.pods.spec import PodSecrets, add_job, parse_secrets
from dev.cluster import ACCOUNT, Cluster
from tests.integration.job_pods import OOM_KILLED_CHILD, OOM_LIMITS, OPTIONS

pytestmark = pytest.mark.integration

TASK_KEY = "k" * 32
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
        self.pods_had: list[Mapping[str, str]] = []
        self.results: list[str] = []
        self.launched = threading.Event()
        self.job: Mapping[str, Any] = {}
        self.info = self.new_info()

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    def new_info(self) -> JobInfo:
        return JobInfo(
            job_id=JobId(str(uuid.uuid4())), secret_key=secrets.token_hex(16), hook_url="http://x/y"
        )

    def runner(
        self,
        command: str = "true",
        *,
        position: LogPosition = BEGINNING,
        make_pod: Callable[[k8s.V1Pod], k8s.V1Pod] = lambda pod: pod,
        **changes: Any,
    ) -> KubeRunner:
        options = {field.name for field in fields(PodOptions)}
        container = {name: changes.pop(name) for name in list(changes) if name not in options}
        runner = KubeRunner(
            self.core,
            lambda _: make_pod(self.pod(command, **container)),
            task_labels=self.labels,
            options=replace(OPTIONS, **changes),
            write_line=self.lines.append,
            position=position,
            on_pod=self.pods_had.append,
            return_file=ReturnFile("base", lambda _, results: self.results.append(results)),
        )
        runner.task_key = TASK_KEY
        return runner

    def pod(
        self,
        command: str,
        *,
        image: str = "busybox",
        init: Mapping[str, str] | None = None,
        volume: k8s.V1Volume | None = None,
        **container: Any,
    ) -> k8s.V1Pod:
        volumes = [] if volume is None else [volume]
        mounts = [k8s.V1VolumeMount(name=each.name, mount_path=f"/{each.name}") for each in volumes]
        inits = [
            k8s.V1Container(
                name=name, image=image, image_pull_policy="IfNotPresent", command=["sh", "-c", script]
            )
            for name, script in (init or {}).items()
        ]
        base = k8s.V1Container(
            name="base",
            image=image,
            image_pull_policy="IfNotPresent",
            command=["sh", "-c", command],
            volume_mounts=mounts,
            **container,
        )
        name = f"{self.labels['task_id']}-{secrets.token_hex(4)}"
        metadata = k8s.V1ObjectMeta(name=name, namespace=self.cluster.namespace, labels=dict(self.labels))
        spec = k8s.V1PodSpec(
            containers=[base], init_containers=inits, volumes=volumes, restart_policy="Never"
        )
        return k8s.V1Pod(metadata=metadata, spec=spec)

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
        return parse_secrets({}, k8s.ApiClient().sanitize_for_serialization(secret))

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


def with_return_file(pod: k8s.V1Pod) -> k8s.V1Pod:
    add_return_file(pod, "base")
    return pod


@pytest.mark.parametrize("user", [0, 1000])
def test_what_the_container_leaves_in_a_file_is_reported(scene: Scene, user: int) -> None:
    write = f"mkdir -p /airflow/xcom && echo '{{\"rows\": 3}}' > {RETURN_FILE}"
    security = k8s.V1SecurityContext(run_as_user=user, read_only_root_filesystem=True)
    assert scene.ended(write, make_pod=with_return_file, security_context=security) == Exit(code=0)
    assert scene.results == ['{"rows":3}']
    assert [pod["namespace"] for pod in scene.pods_had] == [scene.cluster.namespace]
    assert scene.pods_had[0]["name"] == scene.job["pod"]


def test_a_file_that_the_cluster_cuts_is_an_error(scene: Scene) -> None:
    write = f"seq 1 2000 | tr '\\n' , > {RETURN_FILE}"
    exit_ = scene.ended(write, make_pod=with_return_file)
    assert (exit_.code, exit_.reason, scene.results) == (0, "ReturnFileInvalid", [])
    assert "4096 bytes or more" in (exit_.message or "")


def test_a_pod_that_uses_too_much_memory(scene: Scene) -> None:
    limits = k8s.V1ResourceRequirements(limits={"memory": "32Mi"})
    exit_ = scene.ended("head -c 200m /dev/zero | tail", resources=limits)
    assert exit_.reason == "OOMKilled"


def test_a_pod_that_ends_well_though_a_child_used_too_much_memory(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    exit_ = scene.ended(f"{OOM_KILLED_CHILD}; echo survived; sleep 1", resources=OOM_LIMITS)
    assert exit_.is_clean
    assert "survived" in exit_.tail  # beside the "Killed" that the shell writes to stderr
    assert [record.levelname for record in caplog.records if "OOMKilled" in record.message] == ["WARNING"]


@pytest.mark.parametrize("code", [12, 137])
def test_a_pod_that_leaves_a_last_word(scene: Scene, code: int) -> None:
    exit_ = scene.ended(f"echo 'bad input file' > /dev/termination-log; echo out; exit {code}")
    assert (exit_.code, exit_.message, exit_.tail) == (code, "bad input file", ("out",))


@pytest.mark.parametrize("count", [5, 30, 2000])
def test_a_pod_whose_last_word_is_made_of_its_log_tells_it_once(scene: Scene, count: int) -> None:
    policy = "FallbackToLogsOnError"
    exit_ = scene.ended(f"seq 1 {count}; sleep 0.8; exit 12", termination_message_policy=policy)
    told = [*(exit_.message or "").splitlines(), *exit_.tail]
    assert told == [str(number) for number in range(count - len(told) + 1, count + 1)]
    assert exit_.code == 12


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


@pytest.mark.parametrize("kind", ["config_map", "secret"])
def test_a_volume_that_is_not_there(scene: Scene, kind: str) -> None:
    source = {
        "config_map": k8s.V1ConfigMapVolumeSource(name="absent"),
        "secret": k8s.V1SecretVolumeSource(secret_name="absent"),
    }
    volume = k8s.V1Volume(name="v", **{kind: source[kind]})
    exit_ = scene.ended("true", volume=volume, start_timeout=timedelta(seconds=10))
    assert exit_.reason == "CreateContainerConfigError"
    for part in ("did not start in time", "MountVolume.SetUp failed", '"absent" not found'):
        assert part in (exit_.message or "")


def test_a_volume_that_cannot_be_mounted(scene: Scene) -> None:
    nowhere = k8s.V1HostPathVolumeSource(path="/nowhere/at/all", type="Directory")
    volume = k8s.V1Volume(name="v", host_path=nowhere)
    exit_ = scene.ended("true", volume=volume, start_timeout=timedelta(seconds=10))
    assert exit_.reason == "PodFailed"
    assert "/nowhere/at/all is not a directory" in (exit_.message or "")


def test_no_right_on_events(scene: Scene, kube: Cluster) -> None:
    volume = k8s.V1Volume(name="v", config_map=k8s.V1ConfigMapVolumeSource(name="absent"))
    with without_right_on(kube, "events"):
        exit_ = scene.ended("true", volume=volume, start_timeout=timedelta(seconds=10))
    assert exit_.reason == "PodFailed"
    for part in ("Container base: ContainerCreating", "rbac.yaml", "events is forbidden"):
        assert part in (exit_.message or "")


def test_an_init_container_that_hangs(scene: Scene) -> None:
    init = {"first": "echo done", "prepare": "echo waiting for the db; sleep 600"}
    exit_ = scene.ended("true", init=init, start_timeout=timedelta(seconds=20))
    assert exit_.reason == "PodFailed"
    assert "Init container prepare has not ended: it has been running since 20" in (exit_.message or "")
    assert exit_.tail == ("waiting for the db",)
    assert scene.texts == ["[prepare] waiting for the db"]


def test_an_init_container_that_fails_tells_its_last_lines(scene: Scene) -> None:
    init = {"first": "echo done", "prepare": "seq 1 30; sleep 0.8; echo no db > /dev/termination-log; exit 7"}
    exit_ = scene.ended("true", init=init)
    assert (exit_.code, exit_.reason) == (7, "InitContainerFailed")
    assert exit_.message == "Init container prepare exited with code 7: no db"
    assert list(exit_.tail) == [str(number) for number in range(11, 31)]
    assert scene.texts == [f"[prepare] {number}" for number in range(11, 31)]


@pytest.mark.parametrize(
    ("wanted", "texts"),
    [
        (True, ["[first] done", "[second] done", "base"]),
        (["second"], ["[second] done", "base"]),
        (["absent"], ["base"]),
    ],
)
def test_requested_logs_of_init_containers_come_first(
    scene: Scene, caplog: pytest.LogCaptureFixture, wanted: list[str] | bool, texts: list[str]
) -> None:
    init = {"first": "echo done", "second": "echo done"}
    exit_ = scene.ended("echo base; exit 1", init=init, init_logs=wanted)
    assert scene.texts == texts
    assert exit_.tail == ("base",)
    assert ("do not exist or have not ended: absent" in caplog.text) == (wanted == ["absent"])


def test_the_whole_log_of_a_failed_init_container_that_is_asked_for(scene: Scene) -> None:
    init = {"first": "echo done", "prepare": "seq 1 30; sleep 0.8; exit 7"}
    exit_ = scene.ended("true", init=init, init_logs=True)
    assert scene.texts == ["[first] done", *(f"[prepare] {number}" for number in range(1, 31))]
    assert list(exit_.tail) == [str(number) for number in range(11, 31)]


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
    assert exit_.is_seen is (exit_.code is not None)  # without grace, it may be deleted before a report


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
    thread = scene.when_launched(first.detach, after_seconds=2)
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


def test_an_expected_pod_that_is_missing_counts_as_deleted(scene: Scene) -> None:
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
    with without_right_on(kube, "secrets"):
        exit_ = scene.ended("true")
        assert exit_.reason == "SecretRefused"
        for part in ('"resources": ["secrets"]', 'job_secret="env"', "forbidden", kube.namespace):
            assert part in (exit_.message or "")
        scene.expect_nothing_left()
        assert scene.ended("test ${#JOB_SECRET_KEY} = 32", secret_in_env=True).code == 0


@contextmanager
def without_right_on(cluster: Cluster, resource: str) -> Iterator[None]:
    """Let Airflow's role lack the rules for a resource meanwhile."""
    rbac = k8s.RbacAuthorizationV1Api(cluster.core.api_client)
    role = rbac.read_namespaced_role(ACCOUNT, cluster.namespace)
    _set_rules(rbac, cluster, [rule for rule in role.rules if resource not in rule.resources])
    try:
        yield
    finally:
        _set_rules(rbac, cluster, role.rules)


def _set_rules(rbac: k8s.RbacAuthorizationV1Api, cluster: Cluster, rules: list[Any]) -> None:
    rbac.patch_namespaced_role(
        ACCOUNT, cluster.namespace, [{"op": "replace", "path": "/rules", "value": rules}]
    )
    time.sleep(1)  # the API server sees it a little later


@pytest.mark.parametrize(("kind", "name"), [("pods", "PodRefused"), ("secrets", "SecretRefused")])
def test_a_quota_that_is_used_up_is_no_missing_right(
    scene: Scene, kube: Cluster, kind: str, name: str
) -> None:
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {f"count/{kind}": "0"}}}
    kube.core.create_namespaced_resource_quota(kube.namespace, quota)
    try:
        _wait_for_quota(kube)
        exit_ = scene.ended("true")
    finally:
        kube.core.delete_namespaced_resource_quota("few", kube.namespace)
    assert exit_.reason == name
    assert "exceeded quota: few" in (exit_.message or "")
    assert "Raise the quota" in (exit_.message or "")
    assert "this permission" not in (exit_.message or "")


def _wait_for_quota(cluster: Cluster) -> None:
    deadline = time.monotonic() + 60
    while not cluster.core.read_namespaced_resource_quota("few", cluster.namespace).status.hard:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)  # the API server sees it a little later


def test_an_unresponsive_webhook_is_reported_with_each_retry(
    scene: Scene, kube: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    label = {"asyncaction-test": kube.namespace}
    kube.core.patch_namespace(kube.namespace, {"metadata": {"labels": label}})
    webhook = k8s.V1ValidatingWebhook(
        name="silent.example.com",
        client_config=k8s.AdmissionregistrationV1WebhookClientConfig(url="https://127.0.0.1:1/"),
        namespace_selector=k8s.V1LabelSelector(match_labels=label),
        rules=[
            k8s.V1RuleWithOperations(
                api_groups=[""], api_versions=["v1"], operations=["CREATE"], resources=["pods"]
            )
        ],
        side_effects="None",
        admission_review_versions=["v1"],
        timeout_seconds=1,
    )
    api = k8s.AdmissionregistrationV1Api(kube.core.api_client)
    body = k8s.V1ValidatingWebhookConfiguration(
        metadata=k8s.V1ObjectMeta(name=kube.namespace), webhooks=[webhook]
    )
    api.create_validating_webhook_configuration(body)
    try:
        time.sleep(2)  # the API server sees it a little later
        exit_ = scene.ended("true", start_timeout=timedelta(seconds=4))
    finally:
        api.delete_validating_webhook_configuration(kube.namespace)
    assert exit_.reason == "PodRefused"
    assert "failed calling webhook" in (exit_.message or "")
    assert "A webhook of the cluster does not answer" in (exit_.message or "")
    said = [record.getMessage() for record in caplog.records if "Retrying" in record.getMessage()]
    assert len(said) >= 2
    assert all("silent.example.com" in line for line in said)


def test_a_pod_that_the_cluster_refuses(scene: Scene) -> None:
    exit_ = scene.ended("true", resources=k8s.V1ResourceRequirements(limits={"memory": "-1"}))
    assert exit_.reason == "PodRefused"
    assert "must be greater than or equal to 0" in (exit_.message or "")


def test_a_pod_is_detached_after_its_watch_time(scene: Scene) -> None:
    runner = scene.runner("echo one; sleep 4; echo two", watch_for=timedelta(seconds=2))
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
    first = scene.runner("sleep 100", watch_for=timedelta(seconds=0))
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
