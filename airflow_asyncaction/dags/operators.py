# SPDX-License-Identifier: Apache-2.0
"""Operators of operation Dags: the Dag run's conf becomes the action's arguments, and is never rendered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow_asyncaction.dags.schemas import build_input, convert_arguments
from airflow_asyncaction.operators.arguments import check_positional
from airflow_asyncaction.operators.routed import AsyncActionOperator
from airflow_asyncaction.operators.service import ServiceActionOperator
from airflow_asyncaction.protocol.operations import Declaration, Schema

_NAME = "@async_operation"  # as Airflow's UI shows it


class OperationOperator(AsyncActionOperator):
    """Runs an operation with the runner that is configured for its type.

    The input becomes the action's arguments or, with ``service_name``, the last argument of the method.
    """

    custom_operator_name = _NAME

    def __init__(self, *, declaration: Declaration, **kwargs: Any) -> None:
        super().__init__(type=declaration.type, doc_json=declaration.to_doc(), **kwargs)
        self._input = declaration.input or {}
        self._before_input = self.arguments or ()

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the fields, then set the input, which users write and which is not a template."""
        self.arguments = self._before_input
        super().render_template_fields(context, jinja_env)
        given = _input_of(context, self._input)
        if self.service_name is None:
            self.arguments = given
        else:
            check_positional(self.arguments)
            self.arguments = [*self.arguments, given]


class FunctionOperator(ServiceActionOperator):
    """Runs the function of an operation. The input becomes its keyword arguments."""

    custom_operator_name = _NAME

    def __init__(
        self, *, declaration: Declaration, python_callable: Callable[..., Any], **kwargs: Any
    ) -> None:
        super().__init__(
            type=declaration.type,
            python_callable=python_callable,
            doc_json=declaration.to_doc(),
            **kwargs,
        )
        self._input = declaration.input or {}

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the fields, then set the input, which users write and which is not a template."""
        super().render_template_fields(context, jinja_env)
        self.arguments = _input_of(context, self._input)
        self.op_kwargs = convert_arguments(self.python_callable, self.arguments)


def _input_of(context: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    return build_input(context["dag_run"].conf, schema)
