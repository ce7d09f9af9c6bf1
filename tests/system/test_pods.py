# SPDX-License-Identifier: Apache-2.0
"""Pods on a real cluster, for waiting and deferred tasks: each end is reported, and pods are cleaned up."""

from __future__ import annotations

import pytest

from airflow_asyncaction import exceptions
from tests.system.kube_scene import KubeScene
from tests.system.scene import eventually

pytestmark = pytest.mark.system

MODES = ("pods_waited_for", "pods_deferred")
FAILURES = {
    "exit_3": ("ExitCode", "why"),
    "out_of_memory": ("OOMKilled", "memory"),
}
OTHER_FAILURES = {
    "mismatch": ("ExitCodeMismatch", "code 4"),
    "no_image": ("ImagePull", "127.0.0.1:1/nothing:1"),
    "no_config": ("CreateContainerConfigError", '"nothing" not found'),
    "no_node": ("Unschedulable", "Insufficient cpu"),
    "too_long": ("DeadlineExceeded", "longer than the specified deadline"),
    "bad_init": ("InitContainerFailed", "prepare"),
}
RESULTS = {"rows": 3, "deep": [None, {"x": 0.5}], "none": None}


@pytest.mark.parametrize("dag_id", MODES)
@pytest.mark.parametrize("task_id", FAILURES)
def test_a_failure_has_a_name_and_its_own_words(kube: KubeScene, dag_id: str, task_id: str) -> None:
    assert_failed(kube, dag_id, task_id, *FAILURES[task_id])


@pytest.mark.parametrize("task_id", OTHER_FAILURES)
def test_the_cluster_says_why_a_pod_failed(kube: KubeScene, task_id: str) -> None:
    assert_failed(kube, "pods_deferred", task_id, *OTHER_FAILURES[task_id])


def assert_failed(kube: KubeScene, dag_id: str, task_id: str, name: str, words: str) -> None:
    assert kube.state_of(dag_id, task_id) == "failed"
    action = kube.action(dag_id, task_id)
    assert (action.state, action.error_name) == ("ERROR", name)
    assert words in (action.error_message or "")
    assert issubclass(getattr(exceptions, name), exceptions.ActionFailed)

    def logged() -> list[str]:
        return [entry.error for entry in kube.api.log(kube.key(dag_id, task_id)) if entry.error]

    errors = eventually(logged, f"{task_id} has logged its error")  # a busy API server may fail to read it
    assert len(errors) == 1
    assert errors[0].startswith(f"{name}: ")
    assert words in errors[0]
    kube.assert_cleared_up(action)


@pytest.mark.parametrize("dag_id", MODES)
def test_a_job_that_succeeds_gives_its_results_and_its_log(kube: KubeScene, dag_id: str) -> None:
    assert kube.state_of(dag_id, "reports") == "success"
    assert kube.api.xcoms(kube.key(dag_id, "reports"))["return_value"] == RESULTS
    events = kube.events(dag_id, "reports")
    assert [events.count(line) for line in ("printed", "reported", "progress 40%: loading")] == [1, 1, 1]
    kube.assert_cleared_up(kube.action(dag_id, "reports"))


@pytest.mark.parametrize("dag_id", MODES)
def test_what_a_dag_of_kubernetes_pod_operator_pushes_is_pushed(kube: KubeScene, dag_id: str) -> None:
    assert kube.state_of(dag_id, "return_file") == "success"
    xcoms = kube.api.xcoms(kube.key(dag_id, "return_file"))
    assert xcoms["return_value"] == {"rows": 3}
    assert xcoms["pod_name"].startswith("return-file-")
    assert xcoms["pod_namespace"] == kube.cluster.namespace
    kube.assert_cleared_up(kube.action(dag_id, "return_file"))


@pytest.mark.parametrize("dag_id", MODES)
def test_a_program_that_knows_nothing_of_reports_is_a_job_too(kube: KubeScene, dag_id: str) -> None:
    assert kube.state_of(dag_id, "clean") == "success"
    assert [event for event in kube.events(dag_id, "clean") if event in ("one", "two")] == ["one", "two"]
    kube.assert_cleared_up(kube.action(dag_id, "clean"))


def test_pods_are_made_in_other_ways(kube: KubeScene) -> None:
    states = {"manifest": "success", "in_clear": "success", "skips": "skipped"}
    for task_id, state in states.items():
        assert kube.state_of("pods_deferred", task_id) == state
        kube.assert_cleared_up(kube.action("pods_deferred", task_id))
    skipped = kube.action("pods_deferred", "skips")
    assert (skipped.state, skipped.error_name) == ("STOPPED", "Skipped")
    assert kube.events("pods_deferred", "manifest").count("whole manifest") == 1


@pytest.mark.parametrize("dag_id", MODES)
def test_many_lines_of_the_last_second_are_all_there_once(kube: KubeScene, dag_id: str) -> None:
    assert kube.state_of(dag_id, "many_lines") == "success"
    numbers = [int(event) for event in kube.events(dag_id, "many_lines") if event.isdigit()]
    assert len(numbers) == 50_000
    assert sorted(numbers) == list(range(1, 50_001))


def test_a_deferred_task_that_needs_no_worker_has_none(kube: KubeScene) -> None:
    assert kube.state_of("pods_deferred", "reports") == "success"
    assert not any("resum" in event.lower() for event in kube.events("pods_deferred", "reports"))
    assert kube.events("pods_deferred", "exit_3").count("why") == 1


def test_tasks_downstream_get_what_a_deferred_job_left(kube: KubeScene) -> None:
    assert kube.state_of("pods_deferred", "downstream") == "success"
    assert kube.api.xcoms(kube.key("pods_deferred", "downstream"))["return_value"] == RESULTS


def test_a_decorated_function_returns_the_containers_command(kube: KubeScene) -> None:
    assert kube.state_of("pods_deferred", "decorated") == "success"
    assert kube.events("pods_deferred", "decorated").count("number 7") == 1


@pytest.mark.parametrize("dag_id", MODES)
def test_no_secret_is_seen_anywhere(kube: KubeScene, dag_id: str) -> None:
    kube.end_of(dag_id)
    secrets = [secret for each in kube.secrets().values() for secret in (each.job, each.task)]
    assert secrets
    assert not any(secret.encode() in line for line in kube.command_lines.seen.copy() for secret in secrets)
    for path in kube.deployment.home.rglob("*.log"):
        content = path.read_text(errors="replace")
        assert not any(secret in content for secret in secrets), path
