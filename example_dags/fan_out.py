# SPDX-License-Identifier: Apache-2.0
"""Task mapping: one action per element of a list. A second task adds up their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_asyncaction.operators import LocalActionOperator

JOBS = Path(__file__).parent / "jobs"

with DAG("fan_out", schedule=None, tags=["asyncaction"], doc_md=__doc__) as dag:
    load = LocalActionOperator.partial(
        task_id="load", type="example.load", command=["sh", str(JOBS / "double.sh")]
    ).expand(arguments=[{"number": 1}, {"number": 2}, {"number": 3}])

    @task
    def add_up(results: Any) -> int:
        return sum(int(result) for result in results)

    add_up(load.output)

if __name__ == "__main__":
    dag.test()
