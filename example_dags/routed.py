# SPDX-License-Identifier: Apache-2.0
"""Routing: runners are configured by action type, such as processes in runners.yaml and pods elsewhere.

AIRFLOW__ASYNCACTION__RUNNERS must be the absolute path of a file such as runners.yaml.
"""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_asyncaction.operators import AsyncActionOperator

with DAG("routed", schedule=None, tags=["asyncaction"], doc_md=__doc__) as dag:
    loads = AsyncActionOperator.partial(task_id="load", type="etl.load").expand(
        arguments=[{"table": "customers"}, {"table": "orders"}]
    )
    total = AsyncActionOperator(task_id="total", type="report.total", arguments={"numbers": [1, 2, 39]})
    archive = AsyncActionOperator(task_id="archive", type="batch.archive", stop_grace=2)
    loads >> total >> archive

if __name__ == "__main__":
    dag.test()
