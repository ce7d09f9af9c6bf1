# SPDX-License-Identifier: Apache-2.0
"""Cron: runs a command from a template file, then a Python callable, every night at three."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_asyncaction.job import current_job
from airflow_asyncaction.operators import LocalActionOperator

with DAG(
    "nightly",
    schedule="0 3 * * *",
    catchup=False,
    params={"tables": ["customers", "orders"]},
    tags=["asyncaction"],
    doc_md=__doc__,
) as dag:
    vacuum = LocalActionOperator(task_id="vacuum", type="example.vacuum", command="jobs/nightly.sh")

    @task.async_action(type="example.count")
    def count(tables: list[str]) -> int:
        current_job().progress(100, "counted")
        return len(tables)

    vacuum >> count(["customers", "orders"])

if __name__ == "__main__":
    dag.test()
