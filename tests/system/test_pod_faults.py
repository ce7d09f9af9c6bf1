# SPDX-License-Identifier: Apache-2.0
"""Airflow's processes are killed while pods run: no second pod starts, and no end is lost."""

from __future__ import annotations

import os
import signal
import time

import pytest

from airflow_asyncaction.protocol.signing import Content
from tests.system.kube_scene import KubeScene
from tests.system.scene import eventually
from tests.unit.live_processes import kill_with_descendants, parent_of

pytestmark = pytest.mark.system

OUTAGE_SECONDS = 20


def lines(kube: KubeScene, dag_id: str, task_id: str, try_number: int = 1) -> list[str]:
    return [event for event in kube.events(dag_id, task_id, try_number) if event.startswith("line ")]


def numbered(count: int) -> list[str]:
    return [f"line {number}" for number in range(count)]


@pytest.fixture(scope="module")
def started(kube: KubeScene) -> None:
    """Let the tests' pods start together: each waits for what is done to it."""
    kube.end_of("pods_deferred")
    kube.end_of("pods_waited_for")
    kube.trigger("pod_worker_killed", "pod_deleted", "pod_cleared", "pod_marked", "pod_timed_out", "pod_left")
    kube.trigger("pod_run_deleted")


@pytest.mark.usefixtures("started")
def test_the_next_try_adopts_the_pod_of_a_killed_worker(kube: KubeScene) -> None:
    action = kube.attempt("pod_worker_killed", "waits")
    pod = kube.running_pod(action)
    os.kill(parent_of(kube.worker_pid("pod_worker_killed", "waits")), signal.SIGKILL)
    assert kube.state_of("pod_worker_killed", "waits") == "success"
    (adopted,) = kube.actions("pod_worker_killed", "waits")
    assert (adopted.id, adopted.attempt, adopted.state) == (action.id, 2, "SUCCESS")
    assert lines(kube, "pod_worker_killed", "waits", 2) == numbered(25)
    assert pod.metadata.name in kube.job(adopted)
    kube.assert_cleared_up(action)


@pytest.mark.usefixtures("started")
def test_a_pod_that_somebody_deletes_is_an_error_that_says_so(kube: KubeScene) -> None:
    action = kube.deferred("pod_deleted", "waits")
    pod = kube.running_pod(action)
    kube.cluster.core.delete_namespaced_pod(pod.metadata.name, kube.cluster.namespace)
    assert kube.state_of("pod_deleted", "waits") == "failed"
    assert kube.action("pod_deleted", "waits").error_name == "PodDeleted"
    kube.assert_cleared_up(action)


@pytest.mark.usefixtures("started")
def test_a_cleared_tasks_old_pod_is_stopped_and_a_new_one_started(kube: KubeScene) -> None:
    first = kube.deferred("pod_cleared", "waits")
    kube.api.clear(kube.key("pod_cleared", "waits"))
    second = kube.attempt("pod_cleared", "waits", 2)
    kube.assert_cleared_up(first)
    kube.running_pod(second)
    assert kube.late_report(first) == (410, "superseded")
    kube.api.set_state(kube.key("pod_cleared", "waits"), "failed")
    kube.assert_cleared_up(second)


@pytest.mark.usefixtures("started")
def test_a_deferred_task_that_is_marked_failed_tells_its_job_to_stop(kube: KubeScene) -> None:
    action = kube.deferred("pod_marked", "waits")
    eventually(lambda: kube.reported_lines(action), "the job reports")
    kube.api.set_state(kube.key("pod_marked", "waits"), "failed")
    kube.assert_cleared_up(action)
    ended = kube.ended("pod_marked", "waits")
    # Whether it obeyed, or was deleted after its grace, depends on when it reports again.
    assert (ended.state, ended.verb, ended.error_name) == ("STOPPED", "STOP", "Killed")


@pytest.mark.usefixtures("started")
def test_a_waiting_task_whose_run_is_deleted_stops_its_pod(kube: KubeScene) -> None:
    action = kube.attempt("pod_run_deleted", "waits")
    kube.running_pod(action)
    run_id = kube.runs["pod_run_deleted"]
    kube.api.set_run_state("pod_run_deleted", run_id, "failed")
    kube.api.delete_run("pod_run_deleted", run_id)
    ended = kube.ended("pod_run_deleted", "waits")
    assert (ended.state, ended.error_name) == ("STOPPED", "Killed")
    kube.assert_cleared_up(action)


@pytest.mark.usefixtures("started")
def test_clocks_run_out_while_tasks_are_deferred(kube: KubeScene) -> None:
    for task_id, name in (("execution", "ExecutionTimeout"), ("heartbeat", "HeartbeatTimeout")):
        assert kube.state_of("pod_timed_out", task_id) == "failed"
        action = kube.action("pod_timed_out", task_id)
        assert (action.state, action.error_name) == ("TIMEOUT", name)
        kube.assert_cleared_up(action)


@pytest.mark.usefixtures("started")
def test_the_reaper_ends_what_nobody_watches(kube: KubeScene) -> None:
    action = kube.attempt("pod_left", "waits")
    kube.running_pod(action)
    os.kill(parent_of(kube.worker_pid("pod_left", "waits")), signal.SIGKILL)
    assert kube.state_of("pod_left", "waits") == "failed"
    assert kube.pods(action)
    namespace = kube.cluster.namespace
    command = ("asyncaction", "reap", "--unheard-for", "0", "--pods-in", namespace)
    reaped = kube.deployment.cli(*command, "--kubernetes-conn-id", "kubernetes_default")
    assert reaped.returncode == 0, reaped.stderr
    assert action.id in reaped.stdout
    kube.assert_cleared_up(action)
    assert kube.ended("pod_left", "waits").state == "STOPPED"


@pytest.mark.usefixtures("started")
def test_a_detached_job_ends_with_its_report(kube: KubeScene) -> None:
    kube.trigger("pod_submits")
    states = frozenset({"deferred"})
    kube.api.wait_for_task(kube.key("pod_submits", "submits"), states, timeout_seconds=60)
    action = kube.attempt("pod_submits", "submits")
    kube.assert_cleared_up(action)
    assert kube.api.task_instance(kube.key("pod_submits", "submits"))["state"] == "deferred"
    body = b'{"status": "SUCCESS", "results": "from elsewhere"}'
    assert kube.send(action, Content("POST", "/status", body=body)).status_code == 200
    assert kube.state_of("pod_submits", "submits") == "success"
    assert kube.api.xcoms(kube.key("pod_submits", "submits"))["return_value"] == "from elsewhere"


@pytest.mark.usefixtures("started")
def test_a_triggerer_that_was_killed_loses_nothing(kube: KubeScene) -> None:
    kube.trigger("pod_triggerer_killed")
    action = kube.deferred("pod_triggerer_killed", "waits")
    time.sleep(4)  # let it follow the log
    kube.deployment.triggerer.kill()
    time.sleep(3)
    kube.deployment.triggerer.start()
    assert kube.state_of("pod_triggerer_killed", "waits") == "success"
    kube.assert_cleared_up(action)
    assert lines(kube, "pod_triggerer_killed", "waits") == numbered(30)


@pytest.mark.usefixtures("started")
def test_a_scheduler_that_was_killed_loses_nothing(kube: KubeScene) -> None:
    dag_id = "pod_scheduler_killed"
    kube.trigger(dag_id)
    deferred, waited_for = kube.deferred(dag_id, "deferred"), kube.attempt(dag_id, "waited_for")
    kube.running_pod(waited_for)
    scheduler = kube.deployment.scheduler
    assert scheduler.pid is not None
    kill_with_descendants(scheduler.pid)  # its workers as well
    scheduler.wait(60)
    scheduler.start()
    for action, task_id in ((deferred, "deferred"), (waited_for, "waited_for")):
        assert kube.state_of(dag_id, task_id) == "success"
        (only,) = kube.actions(dag_id, task_id)
        assert (only.id, only.state) == (action.id, "SUCCESS")
        kube.assert_cleared_up(action)


@pytest.mark.usefixtures("started")
def test_a_cluster_that_is_away_at_the_end_loses_nothing(kube: KubeScene) -> None:
    dag_id, task_ids = "pod_without_cluster", ("deferred", "waited_for")
    kube.trigger(dag_id)
    actions = [kube.attempt(dag_id, task_id) for task_id in task_ids]
    for action in actions:
        kube.running_pod(action)
    with kube.cluster.outage():
        time.sleep(OUTAGE_SECONDS)
    for task_id, action in zip(task_ids, actions, strict=True):
        assert kube.state_of(dag_id, task_id) == "success"
        assert lines(kube, dag_id, task_id) == numbered(15)
        kube.assert_cleared_up(action)


@pytest.mark.usefixtures("started")
def test_an_api_server_that_is_away_at_the_end_loses_nothing(kube: KubeScene) -> None:
    dag_id = "pod_without_api_server"
    kube.trigger(dag_id)
    action = kube.deferred(dag_id, "reports")
    kube.deployment.api_server.kill()
    time.sleep(OUTAGE_SECONDS)
    kube.deployment.api_server.start()
    kube.deployment.wait_until_healthy()
    assert kube.state_of(dag_id, "reports") == "success"
    assert kube.api.xcoms(kube.key(dag_id, "reports"))["return_value"]["rows"] == 3
    assert kube.events(dag_id, "reports").count("printed") == 1
    kube.assert_cleared_up(action)


@pytest.mark.usefixtures("started")
def test_a_job_that_reports_needs_no_triggerer(kube: KubeScene) -> None:
    dag_id = "pod_without_triggerer"
    kube.deployment.triggerer.kill()
    try:
        kube.trigger(dag_id)
        assert kube.state_of(dag_id, "reports") == "success"
        assert kube.api.xcoms(kube.key(dag_id, "reports"))["return_value"]["rows"] == 3
        assert kube.events(dag_id, "reports").count("printed") == 1
        kube.assert_cleared_up(kube.action(dag_id, "reports"))
    finally:
        kube.deployment.triggerer.start()
