# SPDX-License-Identifier: Apache-2.0
"""Arguments of KubernetesPodOperator: each has its effect, or is rejected with an alternative."""

from __future__ import annotations

from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any, cast

import pytest
from airflow.exceptions import AirflowProviderDeprecationWarning
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.secret import Secret
from airflow.sdk import DAG
from kubernetes.client import models as k8s

from airflow_asyncaction.operators import KubeActionOperator
from airflow_asyncaction.operators.pod_checks import POLL_INTERVALS, UNSUPPORTED
from airflow_asyncaction.runners.base import Runner

REQUIRED = {"task_id": "job", "image": "busybox", "name": "job", "random_name_suffix": False}
PARAMETERS = {
    name
    for name, parameter in signature(KubernetesPodOperator.__init__).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}
TEMPLATE = {"spec": {"containers": [{"name": "base", "workingDir": "/work"}]}}
IN_POD: dict[str, Any] = {
    "namespace": "jobs",
    "image": "alpine",
    "name": "other",
    "cmds": ["run"],
    "arguments": ["-x"],
    "ports": [k8s.V1ContainerPort(container_port=80)],
    "volume_mounts": [k8s.V1VolumeMount(name="v", mount_path="/v")],
    "volumes": [k8s.V1Volume(name="v", empty_dir={})],
    "env_vars": {"A": "1"},
    "env_from": [k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name="c"))],
    "secrets": [Secret("env", "A", "s", "k")],
    "labels": {"a": "b"},
    "base_container_name": "main",
    "image_pull_policy": "Always",
    "annotations": {"a": "b"},
    "container_resources": k8s.V1ResourceRequirements(limits={"memory": "1Gi"}),
    "affinity": k8s.V1Affinity(pod_affinity=k8s.V1PodAffinity()),
    "runtime_class_name": "gvisor",
    "node_selector": {"disk": "ssd"},
    "image_pull_secrets": [k8s.V1LocalObjectReference(name="s")],
    "service_account_name": "account",
    "automount_service_account_token": False,
    "hostnetwork": True,
    "host_aliases": [k8s.V1HostAlias(ip="127.0.0.1", hostnames=["a"])],
    "tolerations": [k8s.V1Toleration(key="k")],
    "security_context": {"runAsUser": 1000},
    "container_security_context": {"readOnlyRootFilesystem": True},
    "dnspolicy": "Default",
    "dns_config": k8s.V1PodDNSConfig(nameservers=["10.0.0.1"]),
    "hostname": "host",
    "subdomain": "sub",
    "schedulername": "other",
    "full_pod_spec": k8s.V1Pod(spec=k8s.V1PodSpec(containers=[], node_name="n"), metadata=k8s.V1ObjectMeta()),
    "init_containers": [k8s.V1Container(name="prepare")],
    "pod_template_file": "template.yaml",
    "pod_template_dict": TEMPLATE,
    "priority_class_name": "high",
    "pod_runtime_info_envs": [
        k8s.V1EnvVar(
            name="IP",
            value_from=k8s.V1EnvVarSource(field_ref=k8s.V1ObjectFieldSelector(field_path="status.podIP")),
        )
    ],
    "termination_grace_period": 3,
    "configmaps": ["c"],
    "termination_message_policy": "FallbackToLogsOnError",
    "active_deadline_seconds": 7,
}
"""Arguments that change the pod, each with a value that does."""

ELSEWHERE = {
    "init_container_logs",
    "kubernetes_conn_id",
    "in_cluster",
    "cluster_context",
    "config_file",
    "random_name_suffix",
    "reattach_on_restart",
    "durable",
    "startup_timeout_seconds",
    "get_logs",
    "do_xcom_push",
    "skip_on_exit_code",
    "deferrable",
    "on_finish_action",
    "on_kill_action",
}
"""Arguments with other effects, each with a test."""


class Named:
    name = "kubernetes"


RUNNER = cast("Runner", Named())


def operator(**kwargs: Any) -> KubeActionOperator:
    return KubeActionOperator(**{**REQUIRED, **kwargs})


def pod(made: KubernetesPodOperator) -> dict[str, Any]:
    """Return the pod that an operator builds without a cluster."""
    if made.namespace is None and made.pod_template_dict is None:
        made.namespace = "default"
    spec: dict[str, Any] = made.build_pod_request_obj(dry_run=True).to_dict()
    return spec


def test_each_argument_is_honoured_or_refused() -> None:
    groups = [set(IN_POD), ELSEWHERE, set(UNSUPPORTED), set(POLL_INTERVALS)]
    assert set().union(*groups) == PARAMETERS
    assert sum(map(len, groups)) == len(PARAMETERS)


@pytest.mark.parametrize("name", IN_POD)
def test_the_pod_is_that_of_kubernetes_pod_operator(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("template.yaml").write_text("spec: {containers: [{name: base, workingDir: /work}]}\n")
    given = {**REQUIRED, "namespace": "default", name: IN_POD[name]}
    ours, theirs = pod(KubeActionOperator(**given)), pod(KubernetesPodOperator(**given))
    assert ours == theirs
    assert ours != pod(operator(namespace="default"))


@pytest.mark.parametrize("name", [*UNSUPPORTED, *sorted(POLL_INTERVALS)])
def test_the_documentation_has_what_is_different(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "kubernetes" / "README.md"
    assert f"`{name}`" in page.read_text()


def test_names_get_a_suffix_unless_it_is_refused() -> None:
    assert pod(operator())["metadata"]["name"] == "job"
    assert pod(operator(random_name_suffix=True))["metadata"]["name"].startswith("job-")


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_refusal_names_an_alternative(name: str) -> None:
    with pytest.raises(ValueError, match=f"KubeActionOperator does not support {name}: .{{10}}"):
        operator(**{name: 1})
    operator(**{name: None})


@pytest.mark.parametrize(
    "given",
    [
        {"callbacks": []},
        {"log_events_on_startup": False, "log_pod_spec_on_failure": False},
        {"container_logs": "base"},
        {"container_logs": ["main"], "base_container_name": "main"},
        {"container_name_log_prefix_enabled": False},
        dict.fromkeys(POLL_INTERVALS, 3),
    ],
)
def test_what_asks_for_nothing_else_is_taken(given: dict[str, Any]) -> None:
    operator(**given)


def test_all_refusals_are_one_message() -> None:
    defaults = {"callbacks": [print], "retries": 1}
    with (
        DAG("defaults", schedule=None, default_args=defaults),
        pytest.raises(ValueError, match="does not support callbacks") as caught,
    ):
        operator(log_formatter=print, logging_interval=3, job_secret="nowhere")
    said = str(caught.value).split("\n")
    assert [line.partition(":")[0] for line in said] == [
        "KubeActionOperator does not support callbacks",
        "KubeActionOperator does not support logging_interval",
        "KubeActionOperator does not support log_formatter",
        "job_secret is 'nowhere'",
    ]


def test_the_way_to_the_cluster_is_that_of_kubernetes_pod_operator() -> None:
    given = {"in_cluster": True, "cluster_context": "c", "config_file": "f"}
    made = operator(kubernetes_conn_id="k", **given)
    assert made.cluster_arguments() == {"conn_id": "k", **given}
    for name, value in made.cluster_arguments().items():
        assert getattr(made.hook, name) == value


def test_what_a_runner_is_asked_for() -> None:
    options = operator().pod_options()
    assert (options.get_logs, options.on_finish, options.keep_on_kill) == (True, "delete_pod", False)
    given = {"get_logs": False, "on_finish_action": "keep_pod", "on_kill_action": "keep_pod"}
    options = operator(startup_timeout_seconds=7, base_container_name="main", **given).pod_options()
    assert (options.get_logs, options.on_finish, options.keep_on_kill) == (False, "keep_pod", True)
    assert (options.start_timeout, options.container) == (timedelta(seconds=7), "main")


def test_a_try_takes_over_an_earlier_pod_only_if_it_may() -> None:
    assert operator().build_spec(RUNNER).takes_over
    assert operator(durable=True).build_spec(RUNNER).takes_over
    assert not operator(durable=False).build_spec(RUNNER).takes_over
    assert operator(durable=False).build_spec(RUNNER).adoptable  # by the process that resumes the same try
    with pytest.warns(AirflowProviderDeprecationWarning):
        assert not operator(reattach_on_restart=False).build_spec(RUNNER).takes_over


def test_a_results_file_is_read_where_it_was_configured() -> None:
    def path(**given: Any) -> Any:
        return pod(operator(**given))["spec"]["containers"][0]["termination_message_path"]

    assert path() is None
    assert path(do_xcom_push=False) is None
    assert path(do_xcom_push=True, completion="report") is None
    assert path(do_xcom_push=True) == "/airflow/xcom/return.json"
    own = {"spec": {"containers": [{"name": "base", "terminationMessagePath": "/own"}]}}
    with pytest.raises(ValueError, match="sets it to /own"):
        path(do_xcom_push=True, pod_template_dict=own)


def test_exit_codes_and_deferral_mean_the_same() -> None:
    assert list(operator(skip_on_exit_code=99).skip_on_exit_code) == [99]
    assert operator(deferrable=True).deferrable
    assert not operator(deferrable=False).deferrable
