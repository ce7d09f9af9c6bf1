# SPDX-License-Identifier: Apache-2.0
"""Operators: the Task SDK's private constants and classes for operators.

Uses: ``airflow.sdk.bases.operator`` (``OPERATOR_DEFAULTS``, ``TRIGGER_FAIL_REPR``, ``TriggerFailureReason``),
``airflow.sdk.definitions`` (``mappedoperator.OperatorPartial``, ``param.ParamsDict``), and the attributes
``_post_execute_hook``, ``returns_dag_result`` and ``iter_mapped_dependants`` of operators.

Checked with Airflow 3.3.2 (Task SDK 1.3.2).

``TRIGGER_FAIL_REPR`` is the ``next_method`` of a task that resumes because its trigger failed.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf

from airflow_asyncaction.airflow_internals import compatibility
from airflow_asyncaction.airflow_internals.worker.task_process import has_listeners

with compatibility.explain_import_errors():
    from airflow.sdk.bases.operator import OPERATOR_DEFAULTS, TRIGGER_FAIL_REPR, TriggerFailureReason
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from airflow.sdk.definitions.param import ParamsDict

__all__ = [
    "OPERATOR_DEFAULTS",
    "TRIGGER_FAIL_REPR",
    "OperatorPartial",
    "ParamsDict",
    "TriggerFailureReason",
    "needs_worker_after_success",
]

_XCOM_BACKEND = "airflow.sdk.execution_time.xcom.BaseXCom"


def needs_worker_after_success(operator: BaseOperator) -> bool:
    """Return whether a worker is still needed after the operator has succeeded.

    Only a worker handles asset events, success callbacks, post-execute hooks, listeners, a custom XCom
    backend, and results that are split into several XComs, that tasks are mapped over, or that become the
    result of the Dag.
    """
    needs: tuple[Any, ...] = (
        operator.outlets,
        operator.on_success_callback,
        getattr(operator, "_post_execute_hook", None),
        getattr(operator, "multiple_outputs", False),
        getattr(operator, "returns_dag_result", False),
        next(iter(operator.iter_mapped_dependants()), None),
        conf.get("core", "xcom_backend", fallback=_XCOM_BACKEND) != _XCOM_BACKEND,
        has_listeners(),
    )
    return any(needs)
