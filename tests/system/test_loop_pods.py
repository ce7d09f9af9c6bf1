# SPDX-License-Identifier: Apache-2.0
"""Pods in a loop of Airflow 3.4: deferred tasks end with the results of their own iteration."""

from __future__ import annotations

import pytest

from tests.system.kube_scene import KubeScene

pytestmark = pytest.mark.system


def test_deferred_pods_of_each_iteration_end_their_own_tasks(kube: KubeScene) -> None:
    kube.api.wait_for_dags({"loop_pods"})
    kube.trigger("loop_pods")
    assert kube.end_of("loop_pods") == "success"
    query = {"dag": "loop_pods", "run": kube.runs["loop_pods"]}
    found = kube.api.asyncaction("GET", "/actions", **query)["actions"]
    ends = {(each["taskId"], each["iteration"], each["mapIndex"]): each["status"] for each in found}
    assert ends == {
        **{("body.plain", iteration, -1): "SUCCESS" for iteration in range(2)},
        **{("body.mapped", iteration, index): "SUCCESS" for iteration in range(2) for index in range(2)},
    }
    assert len(found) == len(ends)
