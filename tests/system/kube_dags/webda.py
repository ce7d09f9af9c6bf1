# SPDX-License-Identifier: Apache-2.0
"""Jobs of a webda application in pods of its image."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG

from airflow_asyncaction.dags import load_operations
from airflow_asyncaction.operators import AsyncActionOperator, KubeActionOperator

IMAGE = os.environ.get("ASYNCACTION_TEST_WEBDA_IMAGE", "shop")
COMMAND = "cd /webda && exec node_modules/.bin/webda --noCompile launch AsyncService runAsyncOperationAction"
OPERATIONS = Path(__file__).parents[3] / "build" / "webda" / "operations.json"

with DAG("webda_pods", schedule=None):
    AsyncActionOperator(
        task_id="adds",
        type="AsyncWebdaAction",
        service_name="ShopService",
        method="add",
        arguments=[20, 22],
    )
    KubeActionOperator(  # signs as v1, also after its task was deferred
        task_id="adds_in_a_deferred_pod",
        image=IMAGE,
        image_pull_policy="IfNotPresent",
        cmds=["sh", "-c", COMMAND],
        service_name="ShopService",
        method="add",
        arguments=[1, 2],
        orchestrator="AsyncService",
        deferrable=True,
        defer_after=0,
    )

if OPERATIONS.exists():
    load_operations(OPERATIONS, orchestrator="AsyncService")
