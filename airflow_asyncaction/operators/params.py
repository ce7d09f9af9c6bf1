# SPDX-License-Identifier: Apache-2.0
"""Params of operation Dags, which Airflow validates in linear time."""

from __future__ import annotations

from airflow.sdk import BaseOperator, Param

from airflow_asyncaction.airflow_internals.worker.operators import ParamsDict
from airflow_asyncaction.json_schema import BadSchema, compile_schema
from airflow_asyncaction.json_schema.dialect import with_dialect
from airflow_asyncaction.protocol.operations import TAG


def use_linear_params(task: BaseOperator) -> None:
    """Make Airflow validate the Params of an operation Dag in linear time.

    Params with a ``$schema`` of their own stay as they are. So do the Params of Dags whose only tasks of this
    package are mapped: these get tighter limits when the API server's
    routes launch them.

    :raises ValueError: the schema of a Param cannot be used
    """
    if not task.has_dag() or TAG not in task.dag.tags:
        return
    if not task.dag.has_task(task.task_id) or task.dag.get_task(task.task_id) is not task:
        return  # a mapped task, unmapped in a worker
    for params in (task.dag.params, task.params):  # a task copies its Dag's, and Airflow validates both
        if not isinstance(params, ParamsDict):
            continue
        for name in params:
            params[name] = _linear(params.get_param(name), f"Param {name!r} of the Dag {task.dag.dag_id!r}")


def _linear(param: Param, what: str) -> Param:
    if "$schema" in param.schema:
        return param
    try:
        compile_schema(param.schema)
    except BadSchema as error:
        raise ValueError(f"The schema of {what} cannot be used: {error}") from None
    # A new Param: another Dag may share this one, and Param's own copy fails for a Param without a value.
    linear = Param(description=param.description, source=param.source, schema=with_dialect(param.schema))
    linear.value = param.value
    return linear
