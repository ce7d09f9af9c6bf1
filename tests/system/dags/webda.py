# SPDX-License-Identifier: Apache-2.0
"""Jobs of a webda application (tests/webda) in a local folder, with its own command and client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from airflow_asyncaction.dags import load_operations
from airflow_asyncaction.operators import AsyncActionOperator, LocalActionOperator

APPLICATION = Path(__file__).parents[3] / "build" / "webda"
OPERATIONS = APPLICATION / "operations.json"
JOB: dict[str, Any] = {
    "command": [
        "node_modules/.bin/webda",
        "--noCompile",
        "launch",
        "AsyncService",
        "runAsyncOperationAction",
    ],
    "cwd": APPLICATION,
    "service_name": "ShopService",
}

with DAG("webda_jobs", schedule=None):
    AsyncActionOperator(
        task_id="adds", type="AsyncWebdaAction", service_name="ShopService", method="add", arguments=[1, -1]
    )
    AsyncActionOperator(
        task_id="unknown", type="AsyncWebdaAction", service_name="ShopService", method="steal"
    )
    LocalActionOperator(
        task_id="sells", method="sell", arguments=["{{ task.task_id }}"], orchestrator="AsyncService", **JOB
    )
    LocalActionOperator(task_id="lost", method="add", arguments=[1, 2], **JOB)

with DAG("webda_stops", schedule=None):
    AsyncActionOperator(
        task_id="waits", type="AsyncWebdaAction", service_name="ShopService", method="wait", arguments=[600]
    )

if OPERATIONS.exists():
    load_operations(OPERATIONS, orchestrator="AsyncService")
