# SPDX-License-Identifier: Apache-2.0
"""Quick start: a task that runs a job, and a task that uses its results."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, task

from airflow_asyncaction.operators import LocalActionOperator

HERE = Path(__file__).parent

with DAG("first", tags=["asyncaction"]) as dag:
    load = LocalActionOperator(
        task_id="load",
        command=["sh", str(HERE / "load.sh")],  # or ["python", ".../load.py"], or ["node", ".../load.mjs"]
        arguments={"table": "orders"},
        heartbeat_timeout=60,  # after a minute without a report the job is stopped and the task fails
    )

    @task
    def count(loaded: dict[str, int]) -> int:
        """Return the number of rows that the job reported."""
        return loaded["rows"]

    count(load.output)

if __name__ == "__main__":
    dag.test()
