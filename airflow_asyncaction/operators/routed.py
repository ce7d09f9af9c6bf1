# SPDX-License-Identifier: Apache-2.0
"""AsyncActionOperator: runs an action with the runner that is configured for its type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import TaskDeferred
from jinja2 import StrictUndefined, TemplateError

from airflow_asyncaction import runner_config, settings
from airflow_asyncaction.airflow_internals.worker.operators import OPERATOR_DEFAULTS
from airflow_asyncaction.exceptions import NoRunner
from airflow_asyncaction.operators.base import BaseActionOperator
from airflow_asyncaction.operators.local import LocalActionOperator
from airflow_asyncaction.operators.service import ServiceActionOperator
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.tasks import ActionSpec
from airflow_asyncaction.runner_config import KUBERNETES, LOCAL, SERVICE, RunnerConfig
from airflow_asyncaction.runners.base import AdoptableRunner, Runner
from airflow_asyncaction.runners.manifest_variables import render_around
from airflow_asyncaction.runners.routing import (
    FailingRunner,
    NoMatch,
    RoutedAction,
    choose_runner,
    import_object,
    render_option,
)
from airflow_asyncaction.runners.webda import node_options

if TYPE_CHECKING:
    from airflow_asyncaction.airflow_internals.worker.operators import OperatorPartial

_RUNNER = "runner"
"""Key in a deferred task's kwargs: the runner that deferred it, whatever the configuration says now."""

_FOR_SCHEDULER = ("queue", "pool")
_MANIFEST = "job_resources"


class AsyncActionOperator(BaseActionOperator):
    """Run an action with the runner that ``[asyncaction] runners`` configures for its type.

    Purpose: run one Dag anywhere. Its actions can be processes on a laptop and pods in production, by
    configuration alone.

    How it works: the first runner whose ``actions`` match the type is chosen when the Dag is parsed, so that
    the scheduler knows the runner's ``queue`` and ``pool``. The task creates the operator for the runner's
    kind from the runner's options, and delegates to it. Strings in these options are Jinja templates. They
    have the variables of task templates, ``action.type``, ``action.arguments``, ``action.service_name``,
    ``action.method`` and ``webda.node_options``.

    What it does not do: render types or map over types, since the scheduler could not know the pool. An
    action without a matching runner is registered and ends with the error NoRunner.

    Options that the Dag author passes override the configured ones.

    :param type: the action's type, e.g. ``"etl.load"``.

    For the other parameters see :class:`~airflow_asyncaction.operators.base.BaseActionOperator`.
    """

    ui_color = "#e6e4f0"

    def __init__(self, *, type: str, **kwargs: Any) -> None:  # noqa: A002 - the protocol's word
        choice = _choose(type)
        default_args = kwargs.get("default_args") or {}
        passed = {**default_args, **kwargs}
        self._passed = {name: passed[name] for name in runner_config.COMMON_OPTIONS if name in passed}
        if isinstance(choice, RunnerConfig):
            configured = {
                name: choice.options[name]
                for name in runner_config.COMMON_OPTIONS
                if name in choice.options and name not in self._passed
            }
            placement = {name: getattr(choice, name) for name in _FOR_SCHEDULER if name not in passed}
            kwargs = {**kwargs, **configured, **{name: value for name, value in placement.items() if value}}
        super().__init__(type=type, **kwargs)
        self._choice = choice
        self._delegate: BaseActionOperator | None = None

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Begin to map the task, with its runner's queue and pool. ``type`` cannot be expanded."""
        if "type" not in kwargs:
            raise TypeError("AsyncActionOperator.partial() requires type: a task cannot be mapped over types")
        choice = _choose(kwargs["type"])
        mapped = super().partial(**kwargs)
        for name in _FOR_SCHEDULER:
            value = getattr(choice, name, None)
            is_default = mapped.kwargs.get(name) in (None, OPERATOR_DEFAULTS.get(name))
            if value and is_default and name not in kwargs:
                mapped.kwargs[name] = value
        return mapped

    def make_runner(self, context: Mapping[str, Any]) -> Runner:
        """Return the runner that was chosen for the type."""
        return self._make_delegate(self._choice, context).make_runner(context)

    def run_action(self, context: Any) -> Any:
        """Run the action with the operator for the chosen runner's kind."""
        return self._delegate_to(self._choice, context, lambda delegate: delegate.run_action(context))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Resume after a deferral, with the runner that deferred the task.

        :raises ValueError: it is no longer configured, and the runner chosen now is of another kind
        """
        kwargs = dict(next_kwargs or {})
        choice = self._deferred_by(kwargs.pop(_RUNNER, None))
        return self._delegate_to(
            choice, context, lambda delegate: delegate.resume_execution(next_method, kwargs, context)
        )

    def on_kill(self) -> None:
        """Stop the job, because Airflow is about to kill this process. Runs in a signal handler."""
        if self._delegate is not None:
            self._delegate.on_kill()

    def _deferred_by(self, name: str | None) -> RunnerConfig | NoMatch:
        """Return the runner that deferred the task. Airflow loses the runner's name if the trigger fails."""
        kept = next((runner for runner in runner_config.load() if runner.name == name), None)
        if kept is not None or name is None:
            return kept or self._choice
        if isinstance(self._choice, NoMatch) or self._choice.kind != KUBERNETES:
            raise ValueError(
                f"[asyncaction] runners no longer has {name!r}, with which this task was deferred: restore it"
            )
        return self._choice

    def _delegate_to(
        self, choice: RunnerConfig | NoMatch, context: Any, act: Callable[[BaseActionOperator], Any]
    ) -> Any:
        delegate = self._delegate = self._make_delegate(choice, context)
        try:
            return act(delegate)
        except TaskDeferred as deferred:
            if isinstance(choice, RunnerConfig):
                deferred.kwargs = {**(deferred.kwargs or {}), _RUNNER: choice.name}
            raise

    def _make_delegate(
        self, choice: RunnerConfig | NoMatch, context: Mapping[str, Any]
    ) -> BaseActionOperator:
        """Return the operator that runs the action. It belongs to no Dag."""
        own: dict[str, Any] = {
            "task_id": self.task_id,
            "type": self.action_type,
            "arguments": self._action_arguments(),
            "service_name": self.service_name,
            "method": self.method,
            "execution_timeout": self.execution_timeout,
            "do_xcom_push": self.do_xcom_push,
            **self._passed,
        }
        if isinstance(choice, NoMatch):
            exit_ = Exit(reason=NoRunner.__name__, message=str(choice))
            delegate: BaseActionOperator = _AnyRunnerOperator(runner=lambda _: FailingRunner(exit_), **own)
        else:
            self.log.info("Using runner %s (%s) for type %s", choice.name, choice.kind, own["type"])
            own |= {"inputs": self.inputs, "output_assets": self.output_assets}
            delegate = _make_operator(choice, self._render_options(choice, context), own)
        delegate.delegated_by = self
        return delegate

    def _action_arguments(self) -> Any:
        if self.service_name is not None:
            return [] if self.arguments is None else self.arguments
        arguments = self.arguments or {}
        if not isinstance(arguments, Mapping):
            raise ValueError(
                f"arguments is of type {type(arguments).__name__}: without service_name it must be a mapping"
            )
        return arguments

    def _render_options(self, choice: RunnerConfig, context: Mapping[str, Any]) -> dict[str, Any]:
        """Return the runner's options, rendered as text even if the Dag renders native objects."""
        environment = self.dag.get_template_env(force_sandboxed=True).overlay(undefined=StrictUndefined)
        action = {
            "type": self.action_type,
            "arguments": self._action_arguments(),
            "service_name": self.service_name,
            "method": self.method,
        }
        variables = {**context, "action": action, "webda": {"node_options": node_options()}}

        def render(name: str, option: Any) -> Any:
            if choice.kind == KUBERNETES and name == _MANIFEST:
                return render_around(option, lambda marked: render_option(marked, environment, variables))
            return render_option(option, environment, variables)

        done = {}
        for name, value in choice.options.items():
            try:
                done[name] = render(name, value)
            except TemplateError as error:
                raise ValueError(f"[asyncaction] runners: {choice.name}: {name}: {error}") from None
        return done


class _AnyRunnerOperator(BaseActionOperator):
    """Operator for runners that have no operator of their own."""

    def __init__(self, *, runner: Callable[[BaseActionOperator], Runner], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._make_runner = runner

    def make_runner(self, context: Mapping[str, Any]) -> Runner:
        """Return the runner."""
        return self._make_runner(self)

    def build_spec(self, runner: Runner) -> ActionSpec:
        """Return the action as it is registered with the server."""
        return replace(super().build_spec(runner), adoptable=isinstance(runner, AdoptableRunner))


def _choose(type_: Any) -> RunnerConfig | NoMatch:
    """Return the runner for a type, checked as far as is possible when the Dag is parsed.

    :raises ValueError: the type is not plain text, or the configuration is invalid
    """
    if not isinstance(type_, str) or not type_ or "{{" in type_:
        raise ValueError(f"type is {type_!r}: it must be plain text, because queue and pool depend on it")
    fallback = settings.load().fallback_on_first
    choice = choose_runner(runner_config.load(), type_, fallback_on_first=fallback)
    if isinstance(choice, RunnerConfig) and choice.kind == KUBERNETES:
        from airflow_asyncaction.operators.pod_checks import find_unsupported
        from airflow_asyncaction.operators.pod_options import list_pod_options

        if refused := find_unsupported(choice.options):
            problems = "; ".join(refused)
            raise ValueError(
                f"[asyncaction] runners: {choice.name}: these options are not supported: {problems}"
            )
        known = {*list_pod_options(), *runner_config.COMMON_OPTIONS}
        runner_config.check_names(choice.name, choice.options, known)
    return choice


def _make_operator(choice: RunnerConfig, options: dict[str, Any], own: dict[str, Any]) -> BaseActionOperator:
    """Return the operator for a runner's kind. The Dag author's options override the configured ones."""
    if choice.kind == LOCAL:
        return LocalActionOperator(**{**options, **own})
    if choice.kind == SERVICE:
        function, arguments = import_object(options.pop("callable")), own["arguments"]
        own.pop("skip_on_exit_code", None)  # a callable has no exit code
        argument_name = "op_kwargs" if isinstance(arguments, Mapping) else "op_args"
        return ServiceActionOperator(
            **{**options, **own}, python_callable=function, **{argument_name: arguments}
        )
    if choice.kind == KUBERNETES:
        from airflow_asyncaction.operators.kubernetes import KubeActionOperator
        from airflow_asyncaction.operators.pod_options import convert_pod_options

        pushes = None if own["do_xcom_push"] else False  # True would also read return.json
        operator = KubeActionOperator(**{**convert_pod_options(options), **own, "do_xcom_push": pushes})
        operator.runner_name = choice.name
        return operator
    common = {name: options.pop(name) for name in runner_config.COMMON_OPTIONS if name in options}

    def make(operator: BaseActionOperator) -> Runner:
        runner: Runner = import_object(choice.kind)(
            RoutedAction(
                type=own["type"],
                arguments=own["arguments"],
                service_name=own["service_name"],
                method=own["method"],
                options=options,
                stop_grace=operator.stop_grace,
                log=operator.log,
            )
        )
        return runner

    return _AnyRunnerOperator(runner=make, **{**common, **own})
