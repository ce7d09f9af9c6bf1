# SPDX-License-Identifier: Apache-2.0
"""Dags of test_routing.py and test_webda.py in pods, chosen by configuration alone, with deferred tasks."""

from __future__ import annotations

import pytest

from dev.deployment import USER
from tests.requirements import webda_image_or_skip
from tests.system.kube_scene import KubeScene
from tests.system.test_routing import DAG_ID, assert_results
from tests.system.test_webda import assert_order
from tests.system.users import User

pytestmark = pytest.mark.system


def test_the_same_actions_run_in_pods(kube: KubeScene) -> None:
    assert_results(kube)


@pytest.mark.parametrize("task_id", ["loads", "adds", "on_worker", "fails"])
def test_routed_tasks_are_deferred_and_leave_nothing(kube: KubeScene, task_id: str) -> None:
    kube.state_of(DAG_ID, task_id)
    events = kube.events(DAG_ID, task_id)
    assert any(event.startswith("Using runner pods (kubernetes) ") for event in events)
    assert events.count("Deferring the task: a trigger watches the pod") == 1
    kube.assert_cleared_up(kube.action(DAG_ID, task_id))


def test_what_the_task_needs_a_worker_for_is_seen(kube: KubeScene) -> None:
    """Its outlets and its end are the routed operator's: the server completes only what has neither."""
    for task_id, times in {"loads": 1, "on_worker": 2, "fails": 2}.items():
        kube.state_of(DAG_ID, task_id)
        launched = [event for event in kube.events(DAG_ID, task_id) if event.startswith("Using runner pods ")]
        assert len(launched) == times
    assert kube.events(DAG_ID, "fails").count("exits soon") == 1


def test_the_nightly_pod_of_the_examples_runs(kube: KubeScene) -> None:
    kube.trigger("nightly_pods")
    assert kube.end_of("nightly_pods") == "success"
    assert "vacuuming orders" in kube.events("nightly_pods", "vacuum")


def test_a_webda_image_runs_unchanged(kube: KubeScene) -> None:
    webda_image_or_skip()
    kube.trigger("webda_pods")
    assert_order(User(kube.deployment, USER))
    assert kube.end_of("webda_pods") == "success"
    results = {"adds": 42, "adds_in_a_deferred_pod": 3}
    for task_id, result in results.items():
        assert kube.api.xcoms(kube.key("webda_pods", task_id))["return_value"] == result
    assert kube.events("webda_pods", "adds").count(f"sells in {kube.cluster.namespace}") == 1
    kube.assert_cleared_up(kube.action("webda_pods", "adds"))
