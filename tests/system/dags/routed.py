# SPDX-License-Identifier: Apache-2.0
"""Routed actions: processes and calls in one deployment, pods in the other."""

from __future__ import annotations

from airflow.sdk import DAG, Asset

from airflow_asyncaction.operators import AsyncActionOperator

with DAG("routed_by_type", schedule=None, default_args={"stop_grace": 3}):
    # Rendered once, like all templates of Dag authors. The result is not rendered again, nor in a command.
    table = "orders; {{ '{{ 6 * 7 }}' }}"
    AsyncActionOperator(task_id="loads", type="echo.load", arguments={"table": table})
    AsyncActionOperator(task_id="adds", type="sum.total", arguments={"numbers": [1, 2]})
    AsyncActionOperator.partial(task_id="mapped", type="echo.part").expand(arguments=[{"n": 0}, {"n": 1}])
    AsyncActionOperator(
        task_id="on_worker", type="echo.load", arguments={}, outlets=[Asset("routed")], do_xcom_push=False
    )
    AsyncActionOperator(task_id="fails", type="exits.soon", arguments={"code": 3})
    AsyncActionOperator(task_id="no_runner", type="elsewhere", arguments={})

with DAG("routed_stop", schedule=None):
    AsyncActionOperator(task_id="sleeps", type="sleep")
