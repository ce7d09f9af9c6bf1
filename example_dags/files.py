# SPDX-License-Identifier: Apache-2.0
"""Input and output files: a shell job reads one file and uploads another, which a wrapped program reads."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow.sdk import DAG, Asset

from airflow_asyncaction.operators import LocalActionOperator

JOBS = Path(__file__).parent / "jobs"

with DAG("files", schedule=None, tags=["asyncaction"], doc_md=__doc__) as dag:
    count = LocalActionOperator(
        task_id="count",
        type="example.files",
        command=["sh", str(JOBS / "count.sh")],
        inputs={"orders": JOBS / "orders.csv"},
        output_assets={"counts": Asset("orders_by_customer")},
    )

    LocalActionOperator(
        task_id="best",
        type="example.files",
        inputs={"counts": count.output["files"]["counts"]},  # type: ignore[index]
        command=f"""
            cd "$(mktemp -d)"
            {sys.executable} -m airflow_asyncaction.job run --input counts=in.csv --output best=best.txt -- \\
              sh -c 'head -n 1 in.csv | tee best.txt'
        """,
    )

if __name__ == "__main__":
    dag.test()
