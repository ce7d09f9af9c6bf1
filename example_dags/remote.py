# SPDX-License-Identifier: Apache-2.0
"""Remote operation: runs in another deployment. The task shows its progress and returns its results.

It needs the connection ``asyncaction_default``: type ``asyncaction``, host ``https://airflow.example.org/async``,
login and password of a user of that deployment who may trigger the operation's Dag.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_asyncaction.operators import RemoteActionOperator

with DAG("remote", schedule=None, tags=["asyncaction"], doc_md=__doc__) as dag:
    load = RemoteActionOperator(
        task_id="load",
        operation="etl.load",
        arguments={"days": ["{{ dag_run.run_after | ds }}"]},
        deferrable=True,
        execution_timeout=timedelta(hours=6),
    )

    @task
    def describe(result: Any) -> str:
        return f"the other deployment returned {result!r}"

    describe(load.output)

if __name__ == "__main__":
    dag.test()
