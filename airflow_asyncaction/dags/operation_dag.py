# SPDX-License-Identifier: Apache-2.0
"""``async_operation``: creates the Dag of one operation.

The Dag run's conf becomes the arguments of its action. It is user input, and never rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, overload

from airflow.sdk import DAG

from airflow_asyncaction.dags.schemas import (
    build_input,
    build_params,
    check_argument_names,
    check_input_schema,
    convert_arguments,
    infer_input_schema,
    infer_output_schema,
)
from airflow_asyncaction.operators.arguments import check_positional
from airflow_asyncaction.operators.routed import AsyncActionOperator
from airflow_asyncaction.operators.service import ServiceActionOperator
from airflow_asyncaction.protocol.operations import TAG, Declaration, Schema

_TASK_ID = "action"
_NAME = "@async_operation"  # as Airflow's UI shows it


class OperationOperator(AsyncActionOperator):
    """Run an operation with the runner that is configured for its type.

    The input becomes the action's arguments or, with ``service_name``, the last argument of the method.
    """

    custom_operator_name = _NAME

    def __init__(self, *, declaration: Declaration, **kwargs: Any) -> None:
        super().__init__(type=declaration.type, doc_json=declaration.to_doc(), **kwargs)
        self._input = declaration.input or {}
        self._before_input = self.arguments or ()

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the fields, then set the input: it is user input, never a template."""
        self.arguments = self._before_input
        super().render_template_fields(context, jinja_env)
        fields = build_input(context["dag_run"].conf, self._input)
        if self.service_name is None:
            self.arguments = fields
        else:
            check_positional(self.arguments)
            self.arguments = [*self.arguments, fields]


class FunctionOperator(ServiceActionOperator):
    """Run the function of an operation. The input becomes its keyword arguments."""

    custom_operator_name = _NAME

    def __init__(self, *, declaration: Declaration, **kwargs: Any) -> None:
        super().__init__(type=declaration.type, doc_json=declaration.to_doc(), **kwargs)
        self._input = declaration.input or {}

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the fields, then set the input: it is user input, never a template."""
        super().render_template_fields(context, jinja_env)
        self.arguments = build_input(context["dag_run"].conf, self._input)
        self.op_kwargs = convert_arguments(self.python_callable, self.arguments)


@overload
def async_operation(function: Callable[..., Any], **options: Any) -> DAG: ...


@overload
def async_operation(*, input: Schema, **options: Any) -> DAG: ...


@overload
def async_operation(**options: Any) -> Callable[[Callable[..., Any]], DAG]: ...


def async_operation(
    function: Callable[..., Any] | None = None,
    *,
    id: str | None = None,  # noqa: A002 - the fields of operations
    type: str | None = None,  # noqa: A002
    input: Schema | None = None,  # noqa: A002
    output: Schema | None = None,
    permission: str | None = None,
    schedule: Any = None,
    tags: Collection[str] = (),
    action: Mapping[str, Any] | None = None,
    **dag_options: Any,
) -> Any:
    """Create an operation: a Dag with one action, which users launch with ``PUT /async/{id}``.

    Either decorate a function, which is then the job. Its annotations define the input and output schemas::

        @async_operation
        def load(table: str, day: date, dry_run: bool = False, *, job: Job) -> int: ...

    Or give a type and an input schema. ``[asyncaction] runners`` then decides what runs the action::

        async_operation(type="etl.load", input={"type": "object", "properties": {"day": {"format": "date"}}})

    :param id: the id of the operation and of the Dag. Defaults to the function's name, or to the type.
    :param type: the type of the action. Defaults to the id.
    :param input: a JSON Schema (draft 2020-12) of an object.
    :param output: a JSON Schema of the results, for users of the operation.
    :param permission: shown with the operation. Airflow's auth manager alone decides who may launch it.
    :param schedule: the schedule of the Dag. With a schedule, every argument needs a default.
    :param action: arguments of the task's operator, such as ``retries`` or ``heartbeat_timeout``.
    :param dag_options: other arguments of the Dag.
    :raises ValueError: a schema is invalid, or has an argument that the function lacks
    """

    def from_function(function: Callable[..., Any]) -> DAG:
        name = id or function.__name__
        declaration = Declaration(
            type=type or name,
            input=check_input_schema(
                infer_input_schema(function) if input is None else input, what=f"{name}: input"
            ),
            output=output if output is not None else infer_output_schema(function),
            permission=permission,
        )
        check_argument_names(function, (declaration.input or {}).get("properties", {}))
        options = {"description": _first_line(function.__doc__), **dag_options}
        with _dag(name, declaration, schedule, tags, options) as dag:
            FunctionOperator(
                task_id=_TASK_ID, declaration=declaration, python_callable=function, **(action or {})
            )
        return dag

    if function is not None:
        return from_function(function)
    if input is None:
        return from_function
    name = id or type
    if name is None:
        raise ValueError("async_operation requires an id or a type")
    schema = check_input_schema(input, what=f"{name}: input")
    declaration = Declaration(type=type or name, input=schema, output=output, permission=permission)
    with _dag(name, declaration, schedule, tags, dag_options) as dag:
        OperationOperator(task_id=_TASK_ID, declaration=declaration, **(action or {}))
    return dag


def _dag(
    name: str,
    declaration: Declaration,
    schedule: Any,
    tags: Collection[str],
    options: Mapping[str, Any],
) -> DAG:
    defaults: dict[str, Any] = {"catchup": False, "is_paused_upon_creation": False}
    return DAG(
        dag_id=name,
        schedule=schedule,
        tags=[TAG, *tags],
        params=build_params(declaration.input or {}),
        **{**defaults, **options},
    )


def _first_line(doc: str | None) -> str | None:
    return doc.strip().splitlines()[0] if doc and doc.strip() else None
