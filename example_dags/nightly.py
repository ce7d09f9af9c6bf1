# SPDX-License-Identifier: Apache-2.0
"""Every night at three: Airflow is the cron, and the command is a template file."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_asyncaction.operators import LocalActionOperator

with DAG(
    "nightly",
    schedule="0 3 * * *",
    catchup=False,
    params={"tables": ["customers", "orders"]},
    tags=["asyncaction"],
    doc_md=__doc__,
) as dag:
    LocalActionOperator(task_id="vacuum", type="example.vacuum", command="jobs/nightly.sh")

if __name__ == "__main__":
    dag.test()
