# SPDX-License-Identifier: Apache-2.0
"""``@task.async_action_kubernetes``, in a module of its own because the Kubernetes client loads slowly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator

from airflow_asyncaction.decorators import SET_DURING_EXECUTION, decorate, returned_command
from airflow_asyncaction.operators.kubernetes import KubeActionOperator
from airflow_asyncaction.runners.base import Runner


class _DecoratedKube(DecoratedOperator, KubeActionOperator):
    """The decorated function returns the container's command."""

    custom_operator_name = "@task.async_action_kubernetes"
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in KubeActionOperator.template_fields if name != "cmds"),
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(cmds=[SET_DURING_EXECUTION], **kwargs)

    def make_runner(self, context: Any) -> Runner:
        """Call the function, which returns a string for the shell or a list of command and arguments."""
        command = returned_command(self, context)
        self.cmds = ["sh", "-c", command] if isinstance(command, str) else command
        return super().make_runner(context)


def async_action_kubernetes(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Turn a function into a task that runs its command in a pod (``@task.async_action_kubernetes``).

    Accepts the parameters of
    :class:`~airflow_asyncaction.operators.kubernetes.KubeActionOperator`.
    """
    return decorate(_DecoratedKube, python_callable, multiple_outputs, kwargs)
