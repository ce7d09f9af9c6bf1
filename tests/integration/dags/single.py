# SPDX-License-Identifier: Apache-2.0
"""A single task that works in any environment."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_asyncaction.operators import LocalActionOperator

with DAG("single", schedule=None) as dag:
    LocalActionOperator(task_id="greets", command="echo hello from a single task")

if __name__ == "__main__":
    dag.test()
