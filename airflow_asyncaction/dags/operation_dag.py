# SPDX-License-Identifier: Apache-2.0
"""One Dag for one operation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, overload

from airflow.sdk import DAG

from airflow_asyncaction.dags.operators import FunctionOperator, OperationOperator
from airflow_asyncaction.dags.schemas import (
    check_names,
    checked,
    input_schema_of,
    output_schema_of,
    params_of,
)
from airflow_asyncaction.protocol.operations import TAG, Declaration, Schema

_TASK_ID = "action"


@overload
def async_operation(function: Callable[..., Any], **options: Any) -> DAG: ...


@overload
def async_operation(*, input: Schema, **options: Any) -> DAG: ...


@overload
def async_operation(**options: Any) -> Callable[[Callable[..., Any]], DAG]: ...


def async_operation(
    function: Callable[..., Any] | None = None,
    *,
    id: str | None = None,  # noqa: A002 - the words of operations
    type: str | None = None,  # noqa: A002
    input: Schema | None = None,  # noqa: A002
    output: Schema | None = None,
    permission: str | None = None,
    schedule: Any = None,
    tags: Collection[str] = (),
    action: Mapping[str, Any] | None = None,
    **dag_options: Any,
) -> Any:
    """Make a Dag that is an operation: it can be launched by ``PUT /async/{id}``, and is an action of a type.

    From a function, which is then the job; what it takes and returns follows from its annotations::

        @async_operation
        def load(table: str, day: date, dry_run: bool = False, *, job: Job) -> int: ...

    From a type and the schema of its input; what runs it follows from ``[asyncaction] runners``::

        async_operation(type="etl.load", input={"type": "object", "properties": {"day": {"format": "date"}}})

    :param id: of the operation and the Dag; the function's name, or the type
    :param type: of the action; the id unless given
    :param input: JSON Schema (draft 2020-12) of an object
    :param output: JSON Schema of the results, for who launches it
    :param permission: told with the operation; who may launch it is for Airflow's auth manager to say
    :param schedule: as a Dag's: then every required argument needs a default
    :param action: options of the task's operator, such as ``retries`` or ``heartbeat_timeout``
    :param dag_options: of the Dag
    :raises ValueError: the schema makes no sense, or has arguments that the function has not
    """

    def of_function(function: Callable[..., Any]) -> DAG:
        name = id or function.__name__
        declaration = Declaration(
            type=type or name,
            input=checked(input_schema_of(function) if input is None else input, what=f"{name}: input"),
            output=output if output is not None else output_schema_of(function),
            permission=permission,
        )
        check_names(function, (declaration.input or {}).get("properties", {}))
        described = {"description": _first_line(function.__doc__), **dag_options}
        with _dag(name, declaration, schedule, tags, described) as dag:
            FunctionOperator(
                task_id=_TASK_ID, declaration=declaration, python_callable=function, **(action or {})
            )
        return dag

    if function is not None:
        return of_function(function)
    if input is None:
        return of_function
    name = id or type
    if name is None:
        raise ValueError("async_operation needs an id or a type")
    schema = checked(input, what=f"{name}: input")
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
        params=params_of(declaration.input or {}),
        **{**defaults, **options},
    )


def _first_line(doc: str | None) -> str | None:
    return doc.strip().splitlines()[0] if doc and doc.strip() else None
