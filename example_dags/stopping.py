# SPDX-License-Identifier: Apache-2.0
"""Stopping: mark the task as failed, or clear it. The job is asked to stop, then killed after 3 seconds."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from airflow_asyncaction.operators import LocalActionOperator

JOBS = Path(__file__).parent / "jobs"

with DAG("stopping", schedule=None, tags=["asyncaction"], doc_md=__doc__) as dag:
    LocalActionOperator(
        task_id="long",
        type="example.long",
        command=["sh", str(JOBS / "long.sh")],
        stop_grace=3,
        execution_timeout=timedelta(hours=2),
    )

if __name__ == "__main__":
    dag.test()
