# SPDX-License-Identifier: Apache-2.0
"""POSIX shell: a job reports progress, log lines and a result, which the next task uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_asyncaction.operators import LocalActionOperator

JOBS = Path(__file__).parent / "jobs"

with DAG("shell_job", schedule=None, tags=["asyncaction"], doc_md=__doc__) as dag:
    report = LocalActionOperator(
        task_id="report", type="example.shell", command=["sh", str(JOBS / "report.sh")]
    )

    @task
    def describe(result: Any) -> str:
        return f"{result['rows']} rows came from {result['from']}"

    describe(report.output)

if __name__ == "__main__":
    dag.test()
