# SPDX-License-Identifier: Apache-2.0
"""Pod specs of jobs: variables, Secret, labels and manifests."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as k8s

from airflow_asyncaction.protocol.job_info import JOB_SECRET_KEY, JobId, JobInfo
from airflow_asyncaction.runners.pods.exit_status import (
    ACTION_LABEL,
    ON_FINISH_LABEL,
    TASK_KEY_ANNOTATION,
    trim_pod,
)
from airflow_asyncaction.runners.pods.spec import (
    MASKED_SECRETS,
    TASK_KEY,
    PodSecrets,
    add_job,
    build_job_secret,
    parse_manifest,
    parse_secrets,
)

INFO = JobInfo(
    job_id=JobId("0190a2b4-0000-7000-8000-000000000001"),
    secret_key="topsecret",
    hook_url="https://airflow/async",
)
VARIABLES = {"JOB_ID": "the-id", "JOB_HOOK": "https://hook"}


def _pod() -> k8s.V1Pod:
    own = [k8s.V1EnvVar(name="JOB_ID", value="wrong"), k8s.V1EnvVar(name="MINE", value="1")]
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="the-pod", labels={"dag_id": "d"}),
        spec=k8s.V1PodSpec(
            restart_policy="Always",
            init_containers=[k8s.V1Container(name="prepare")],
            containers=[k8s.V1Container(name="base", env=own), k8s.V1Container(name="side")],
        ),
    )


def _json(model: Any) -> Any:
    return k8s.ApiClient().sanitize_for_serialization(model)


def test_every_container_gets_the_variables_once_and_keeps_its_own() -> None:
    pod = _pod()
    add_job(pod, INFO, task_key="taskkey", secret_in_env=False, on_finish="keep_pod")
    spec = _json(pod)["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        environ = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert len(environ) == len(container["env"])
        assert environ["JOB_ID"] == INFO.job_id
        assert environ["JOB_HOOK"] == INFO.hook_url
    assert "MINE" in {variable["name"] for variable in spec["containers"][0]["env"]}


def test_a_pod_runs_once_and_carries_its_labels() -> None:
    pod = _pod()
    add_job(pod, INFO, task_key="taskkey", secret_in_env=False, on_finish="keep_pod")
    assert pod.spec.restart_policy == "Never"
    assert pod.metadata.labels == {"dag_id": "d", ACTION_LABEL: INFO.job_id, ON_FINISH_LABEL: "keep_pod"}


def test_the_secrets_are_not_in_the_pod_but_in_a_secret_that_the_pod_owns() -> None:
    pod = _pod()
    add_job(pod, INFO, task_key="taskkey", secret_in_env=False, on_finish="delete_pod")
    assert not any(secret in str(_json(pod)) for secret in ("topsecret", "taskkey"))
    pod.metadata.uid = "the-uid"
    secret = _json(build_job_secret(pod, INFO, task_key="taskkey"))
    assert secret["metadata"]["name"] == "the-pod"
    assert secret["metadata"]["labels"] == {ACTION_LABEL: INFO.job_id}
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == ["the-uid"]
    assert secret["stringData"] == {JOB_SECRET_KEY: "topsecret", TASK_KEY: "taskkey"}
    known = _json(build_job_secret(pod, INFO, task_key="taskkey", known=["a password"]))["stringData"]
    assert known == {**secret["stringData"], MASKED_SECRETS: '["a password"]'}
    with pytest.raises(ValueError, match=JOB_SECRET_KEY):
        parse_secrets(_json(pod), None)


def test_containers_refer_to_the_jobs_secret_alone() -> None:
    pod = _pod()
    add_job(pod, INFO, task_key="taskkey", secret_in_env=False, on_finish="delete_pod")
    spec = _json(pod)["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        (reference,) = [variable for variable in container["env"] if "valueFrom" in variable]
        assert reference == {
            "name": JOB_SECRET_KEY,
            "valueFrom": {"secretKeyRef": {"name": "the-pod", "key": JOB_SECRET_KEY}},
        }
        assert "envFrom" not in container
    assert "volumes" not in spec


def test_in_clear_the_task_key_is_in_no_container() -> None:
    pod = _pod()
    pod.metadata.annotations = {"mine": "1"}
    add_job(pod, INFO, task_key="taskkey", secret_in_env=True, on_finish="delete_pod")
    assert pod.metadata.annotations == {"mine": "1", TASK_KEY_ANNOTATION: "taskkey"}
    assert "taskkey" not in str(_json(pod)["spec"])
    assert "taskkey" not in str(trim_pod(_json(pod)))


def test_the_secrets_are_read_back() -> None:
    data = {
        name: base64.b64encode(value).decode()
        for name, value in (
            (JOB_SECRET_KEY, b"topsecret"),
            (TASK_KEY, b"taskkey"),
            (MASKED_SECRETS, b'["a password"]'),
        )
    }
    read = parse_secrets({}, {"data": data})
    assert read == PodSecrets("topsecret", "taskkey", frozenset({"a password"}))
    assert read.mask("taskkey, a password, topsecret") == "***, ***, ***"
    assert "a password" not in repr(read)
    pod = _pod()
    add_job(pod, INFO, task_key="taskkey", secret_in_env=True, on_finish="delete_pod")
    assert parse_secrets(_json(pod), None) == PodSecrets("topsecret", "taskkey")


@pytest.mark.parametrize("secret_in_env", [True, False])
def test_a_pod_from_before_task_keys_has_its_jobs_secret(secret_in_env: bool) -> None:
    pod = _pod()
    add_job(pod, INFO, task_key=None, secret_in_env=secret_in_env, on_finish="delete_pod")
    data = {"data": {JOB_SECRET_KEY: base64.b64encode(b"topsecret").decode()}}
    assert parse_secrets(_json(pod), None if secret_in_env else data) == PodSecrets("topsecret", "topsecret")


@pytest.mark.parametrize("name", [JOB_SECRET_KEY, TASK_KEY, MASKED_SECRETS])
@pytest.mark.parametrize("data", ["no base64!", base64.b64encode(b"\xff").decode()])
def test_a_secret_that_somebody_changed_is_refused(name: str, data: str) -> None:
    known = {each: base64.b64encode(b"[]").decode() for each in (JOB_SECRET_KEY, TASK_KEY, MASKED_SECRETS)}
    with pytest.raises(ValueError, match=name):
        parse_secrets({}, {"data": {**known, name: data}})


def test_secrets_are_masked_and_not_shown() -> None:
    secrets = PodSecrets("topsecret", "taskkey")
    assert secrets.mask("a topsecret b taskkey") == "a *** b ***"
    assert "secret" not in repr(secrets).replace("PodSecrets", "")


POD = """
apiVersion: v1
kind: Pod
metadata:
  labels: {action: "${JOB_ID}"}
spec:
  containers:
    - name: base
      image: busybox
      command: [sh, -c, "echo $HOME $${HOME} ${JOB_HOOK}/x"]
"""


def test_variables_are_replaced_in_all_strings(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(POD)
    for manifest in (POD, file, str(file)):
        pod = parse_manifest(manifest, VARIABLES)
        assert pod.metadata.labels == {"action": "the-id"}
        assert pod.spec.containers[0].command[2] == "echo $HOME ${HOME} https://hook/x"


def test_a_job_gives_its_pod() -> None:
    container = {"name": "base", "image": "busybox"}
    job = {
        "kind": "Job",
        "metadata": {"name": "j", "labels": {"team": "a", "x": "job"}},
        "spec": {
            "backoffLimit": 4,
            "activeDeadlineSeconds": 60,
            "template": {"metadata": {"labels": {"x": "pod"}}, "spec": {"containers": [container]}},
        },
    }
    pod = parse_manifest(job, {})
    assert pod.kind == "Pod"
    assert pod.metadata.name == "j"
    assert pod.metadata.labels == {"team": "a", "x": "pod"}
    assert pod.spec.active_deadline_seconds == 60
    assert "activeDeadlineSeconds" not in job["spec"]["template"]["spec"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"kind": "Deployment"}, "'Deployment'.*Pod or Job"),
        ({"kind": "Pod", "spec": {}}, "containers"),
        ({"kind": "Job", "spec": {"completions": 3}}, "completions is 3.*mapped"),
        ({"kind": "Job", "spec": {"parallelism": 0}}, "parallelism is 0"),
        ({"kind": "Job", "spec": {}}, "spec.template.spec"),
        (
            {"kind": "Pod", "x": "${NAME} ${JOB_ID}"},
            r"{NAME. is unknown\. Known ones are ..JOB_HOOK., ..JOB_ID..*\$\$\{NAME\}",
        ),
        ("kind: Pod\n---\nkind: Pod\n", "single YAML document"),
        ("kind: [\n", "single YAML document"),
        ("- a\n- b\n", "not a mapping"),
        ("nowhere.yaml", "'nowhere.yaml' cannot be read"),
    ],
)
def test_bad_manifests_are_refused_with_advice(manifest: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_manifest(manifest, VARIABLES)
