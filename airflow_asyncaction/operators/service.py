# SPDX-License-Identifier: Apache-2.0
"""ServiceActionOperator: runs a Python callable in the task process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import context_merge, determine_kwargs

from airflow_asyncaction.job import Job
from airflow_asyncaction.operators.base import BaseActionOperator
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.strict_json import to_storable
from airflow_asyncaction.protocol.tasks import TaskView
from airflow_asyncaction.runners.base import Runner
from airflow_asyncaction.runners.service import ServiceRunner


class ServiceActionOperator(BaseActionOperator):
    """Run a Python callable, sync or ``async def``, that may report its progress.

    It runs in the task process and gets the context variables that it has parameters for, as with
    PythonOperator. It reports with its parameter ``job``, unless the Dag passes an argument for that, or with
    ``airflow_asyncaction.job.current_job()``. Records of ``logging`` go to the action's log and the task log.

    The return value is the action's result. An exception fails the task, and AirflowSkipException skips it.

    :param python_callable: the callable.
    :param op_args: positional arguments. (templated)
    :param op_kwargs: keyword arguments. (templated)

    For the other parameters see :class:`~airflow_asyncaction.operators.base.BaseActionOperator`.
    """

    template_fields: Sequence[str] = ("op_args", "op_kwargs", *BaseActionOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "op_args": "py",
        "op_kwargs": "py",
        **BaseActionOperator.template_fields_renderers,
    }
    shallow_copy_attrs: Sequence[str] = ("python_callable", "op_kwargs")
    ui_color = "#e8f0e4"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not callable(python_callable):
            raise TypeError("python_callable must be callable")
        if self.skip_on_exit_code:
            raise ValueError(
                "skip_on_exit_code is not supported for callables, which have no exit code: raise"
                " AirflowSkipException"
            )
        if self.options.completion != "exit":
            raise ValueError(
                'completion="report" is not supported for callables: their return ends the action'
            )
        self.python_callable = python_callable
        self.op_args = op_args or ()
        self.op_kwargs = op_kwargs or {}

    def make_runner(self, context: Mapping[str, Any]) -> Runner:
        """Return a ServiceRunner."""

        def call(job: Job) -> Any:
            return self._call(context, job)

        return ServiceRunner(call=call, stop_grace=self.stop_grace, log=self.log)

    def get_results(self, view: TaskView, info: JobInfo, runner: Runner) -> Any:
        """Return the callable's own return value, or raise its own exception."""
        if isinstance(runner, ServiceRunner):
            if runner.exception is not None:
                raise runner.exception
            if view.state is State.SUCCESS:
                pushed = to_storable(runner.returned) if runner.returned_json else runner.returned
                return self.warn_if_changed(pushed, pushed is not runner.returned)
        return super().get_results(view, info, runner)

    def _call(self, context: Mapping[str, Any], job: Job) -> Any:
        merged: Any = dict(context)
        op_kwargs = dict(self.op_kwargs)
        if wants_job(self.python_callable, self.op_args, op_kwargs):
            op_kwargs["job"] = job
        context_merge(merged, op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, merged)
        return self.python_callable(*self.op_args, **kwargs)


def wants_job(function: Callable[..., Any], op_args: Collection[Any], op_kwargs: Mapping[str, Any]) -> bool:
    """Return whether a function has a parameter ``job`` and no argument for it."""
    signature = inspect.signature(function)
    if "job" not in signature.parameters or op_kwargs.get("job") is not None:
        return False
    return "job" not in signature.bind_partial(*op_args).arguments
