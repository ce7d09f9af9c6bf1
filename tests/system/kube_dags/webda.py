# SPDX-License-Identifier: Apache-2.0
"""Jobs of a webda application in pods of its image."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from airflow_asyncaction.operation_dags import load_operations
from airflow_asyncaction.operators import AsyncActionOperator

OPERATIONS = Path(__file__).parents[3] / "build" / "webda" / "operations.json"

with DAG("webda_pods", schedule=None):
    AsyncActionOperator(
        task_id="adds",
        type="AsyncWebdaAction",
        service_name="ShopService",
        method="add",
        arguments=[20, 22],
    )

if OPERATIONS.exists():
    load_operations(OPERATIONS, orchestrator="AsyncService")
