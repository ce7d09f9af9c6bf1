# SPDX-License-Identifier: Apache-2.0
"""Node.js: a script reads its arguments from Airflow and reports progress and a result."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from airflow_asyncaction.operators import LocalActionOperator

JOBS = Path(__file__).parent / "jobs"

with DAG("node_job", schedule=None, tags=["asyncaction"], doc_md=__doc__) as dag:
    LocalActionOperator(
        task_id="count",
        type="example.node",
        command=["node", str(JOBS / "report.mjs")],
        arguments={"words": ["any", "program", "in", "any", "language"]},
    )

if __name__ == "__main__":
    dag.test()
