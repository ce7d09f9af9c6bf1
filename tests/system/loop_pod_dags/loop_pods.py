# SPDX-License-Identifier: Apache-2.0
"""A loop of Airflow 3.4 with deferred pods, plain and mapped, whose results the server makes XComs."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task, task_group

from airflow_asyncaction.operators import KubeActionOperator

SMALL: dict[str, Any] = {"image": "busybox", "image_pull_policy": "IfNotPresent", "deferrable": True}
RETURN = "mkdir -p /airflow/xcom && echo '{\"number\": %d}' > /airflow/xcom/return.json"


def loop(group: Any, *, max_iterations: int) -> None:
    group.loop(max_iterations=max_iterations)  # the types are those of Airflow 3.3, which has no loops


with DAG("loop_pods", schedule=None):

    @task_group
    def body() -> None:
        plain = KubeActionOperator(task_id="plain", cmds=["echo", "iteration {{ loop.index }}"], **SMALL)
        mapped = KubeActionOperator.partial(task_id="mapped", do_xcom_push=True, **SMALL).expand(
            cmds=[["sh", "-c", RETURN % number] for number in (1, 2)]
        )

        @task
        def check(results: Any) -> None:
            assert [result["number"] for result in results] == [1, 2]

        plain >> mapped
        check(mapped.output)

    loop(body, max_iterations=2)
