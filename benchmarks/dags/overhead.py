# SPDX-License-Identifier: Apache-2.0
"""The same nothing, twice."""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from airflow_asyncaction.operators import LocalActionOperator

with DAG("benchmark_overhead", schedule=None, catchup=False):
    BashOperator(task_id="bash", bash_command="true") >> LocalActionOperator(
        task_id="local_action", command="true"
    )
