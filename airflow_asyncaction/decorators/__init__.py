# SPDX-License-Identifier: Apache-2.0
"""Decorators ``@task.async_action`` and ``@task.async_action_local``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from airflow.providers.common.compat.sdk import context_merge, determine_kwargs
from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory

from airflow_asyncaction.operators.arguments import derive_arguments
from airflow_asyncaction.operators.local import LocalActionOperator, check_command
from airflow_asyncaction.operators.service import ServiceActionOperator, wants_job
from airflow_asyncaction.runners.base import Runner

__all__ = ["async_action", "async_action_local"]

SET_DURING_EXECUTION = "set by the decorated function"


class _DecoratedService(DecoratedOperator, ServiceActionOperator):
    """The decorated function is the job."""

    custom_operator_name = "@task.async_action"
    template_fields: Sequence[str] = ServiceActionOperator.template_fields

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # DecoratedOperator requires an argument for every parameter. The one for "job" comes later.
        arguments = dict(op_kwargs or {})
        if wants_job(python_callable, op_args or (), arguments):
            arguments["job"] = None
        call: dict[str, Any] = {
            "python_callable": python_callable,
            "op_args": op_args,
            "op_kwargs": arguments,
        }
        super().__init__(**call, kwargs_to_upstream=call, **kwargs)


class _DecoratedLocal(DecoratedOperator, LocalActionOperator):
    """The decorated function returns the command."""

    custom_operator_name = "@task.async_action_local"
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *LocalActionOperator.template_fields,
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(command=SET_DURING_EXECUTION, **kwargs)

    def make_runner(self, context: Any) -> Runner:
        """Call the function, render the command that it returns, and return a runner for that."""
        self.command = returned_command(self, context)
        return super().make_runner(context)


def returned_command(operator: DecoratedOperator, context: Any) -> list[str] | str:
    """Call the decorated function, and return the rendered command that it returned.

    :raises TypeError: it did not return a command
    """
    context_merge(context, operator.op_kwargs)
    kwargs = determine_kwargs(operator.python_callable, operator.op_args, context)
    returned = operator.python_callable(*operator.op_args, **kwargs)
    try:
        command = check_command(returned)
    except ValueError as error:
        name = getattr(operator, "custom_operator_name", type(operator).__name__)
        raise TypeError(
            f"{operator.python_callable.__qualname__} returned {error}: a function of {name} must return"
            " the command to run, as a list of strings or as one string for the shell. To run Python code,"
            " use @task.async_action"
        ) from None
    rendered: list[str] | str = operator.render_template(command, context)
    return rendered


def async_action(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Turn a function into a task that runs it as an action (``@task.async_action``).

    Accepts the parameters of :class:`~airflow_asyncaction.operators.service.ServiceActionOperator`.
    """
    return decorate(_DecoratedService, python_callable, multiple_outputs, kwargs)


def async_action_local(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Turn a function into a task that runs the command it returns (``@task.async_action_local``).

    Accepts the parameters of :class:`~airflow_asyncaction.operators.local.LocalActionOperator`.
    """
    return decorate(_DecoratedLocal, python_callable, multiple_outputs, kwargs)


def decorate(
    operator_class: type[DecoratedOperator],
    python_callable: Callable[..., Any] | None,
    multiple_outputs: bool | None,
    arguments: Mapping[str, Any],
) -> TaskDecorator:
    """Return a task decorator for an operator, with the arguments that Airflow needs to serialize it."""
    derived = derive_arguments(arguments.get("type"), arguments.get("output_assets"), arguments)
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=operator_class,
        **{**arguments, **derived},
    )
