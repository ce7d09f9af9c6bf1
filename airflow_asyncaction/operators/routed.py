# SPDX-License-Identifier: Apache-2.0
"""Run an action with whatever runner the configuration has for its type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.operator import OPERATOR_DEFAULTS
from airflow.sdk.exceptions import TaskDeferred
from jinja2 import StrictUndefined, TemplateError

from airflow_asyncaction import runner_config, settings
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
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

_RUNNER = "runner"
"""Under this name a deferred task keeps the runner that has its job, whatever is configured meanwhile."""

_FOR_SCHEDULER = ("queue", "pool")
_MANIFEST = "job_resources"


class AsyncActionOperator(BaseActionOperator):
    """Run an action without naming what runs it: ``[asyncaction] runners`` does, by the action's type.

    Purpose: one Dag for all places. On a laptop its actions are processes, in production pods, by
    configuration alone.

    How it works: the first runner whose ``actions`` match the type is chosen when the Dag is parsed, so that
    the scheduler knows the runner's ``queue`` and ``pool``. The task makes the operator of the runner's kind
    from the runner's options, and lets it carry the action out. Strings in them are templates, with all that
    templates of tasks have, ``action.type``, ``action.arguments`` and the like, and ``webda.node_options``.

    What it does not do: render a type, or map over types: the scheduler could not know the pool. An action
    for which there is no runner is registered, and ends as the error NoRunner.

    Options that the Dag author gives win over the configured ones.

    :param type: what kind of action it is, e.g. ``"etl.load"``

    For the other parameters see :class:`~airflow_asyncaction.operators.base.BaseActionOperator`.
    """

    ui_color = "#e6e4f0"

    def __init__(self, *, type: str, **kwargs: Any) -> None:  # noqa: A002 - the word of the protocol
        choice = _choose(type)
        default_args = kwargs.get("default_args") or {}
        given = {**default_args, **kwargs}
        self._given = {name: given[name] for name in runner_config.COMMON_OPTIONS if name in given}
        if isinstance(choice, RunnerConfig):
            configured = {
                name: choice.options[name]
                for name in runner_config.COMMON_OPTIONS
                if name in choice.options and name not in self._given
            }
            wishes = {name: getattr(choice, name) for name in _FOR_SCHEDULER if name not in given}
            kwargs = {**kwargs, **configured, **{name: wish for name, wish in wishes.items() if wish}}
        super().__init__(type=type, **kwargs)
        self._choice = choice
        self._delegate: BaseActionOperator | None = None

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Begin to map the task, with its runner's queue and pool, over anything but types."""
        if "type" not in kwargs:
            raise TypeError("AsyncActionOperator.partial() needs type: tasks cannot be mapped over types")
        choice = _choose(kwargs["type"])
        mapped = super().partial(**kwargs)
        for name in _FOR_SCHEDULER:
            wish = getattr(choice, name, None)
            if wish and name not in kwargs and mapped.kwargs.get(name) in (None, OPERATOR_DEFAULTS.get(name)):
                mapped.kwargs[name] = wish
        return mapped

    def make_runner(self, context: Mapping[str, Any]) -> Runner:
        """Return the chosen runner."""
        return self._delegated(self._choice, context).make_runner(context)

    def perform(self, context: Any) -> Any:
        """Let the operator of the chosen runner's kind run the job."""
        return self._let(self._choice, context, lambda delegate: delegate.perform(context))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Go on after a deferral, with the runner that deferred the task.

        :raises ValueError: it is not configured any more, and no other of its kind is chosen now
        """
        kwargs = dict(next_kwargs or {})
        choice = self._deferred_by(kwargs.pop(_RUNNER, None))
        return self._let(
            choice, context, lambda delegate: delegate.resume_execution(next_method, kwargs, context)
        )

    def on_kill(self) -> None:
        """End the job: Airflow is about to kill this process. Called from a signal handler."""
        if self._delegate is not None:
            self._delegate.on_kill()

    def _deferred_by(self, name: str | None) -> RunnerConfig | NoMatch:
        """Return the runner that deferred the task; Airflow forgets its name when a trigger fails."""
        kept = next((runner for runner in runner_config.load() if runner.name == name), None)
        if kept is not None or name is None:
            return kept or self._choice
        if isinstance(self._choice, NoMatch) or self._choice.kind != KUBERNETES:
            raise ValueError(f"[asyncaction] runners has no {name} any more, which has the job: put it back")
        return self._choice

    def _let(
        self, choice: RunnerConfig | NoMatch, context: Any, act: Callable[[BaseActionOperator], Any]
    ) -> Any:
        delegate = self._delegate = self._delegated(choice, context)
        try:
            return act(delegate)
        except TaskDeferred as deferred:
            if isinstance(choice, RunnerConfig):
                deferred.kwargs = {**(deferred.kwargs or {}), _RUNNER: choice.name}
            raise

    def _delegated(self, choice: RunnerConfig | NoMatch, context: Mapping[str, Any]) -> BaseActionOperator:
        """Return the operator that carries the action out. It belongs to no Dag, and acts for this one."""
        own: dict[str, Any] = {
            "task_id": self.task_id,
            "type": self.options.type,
            "arguments": self._action_arguments(),
            "service_name": self.service_name,
            "method": self.method,
            "execution_timeout": self.execution_timeout,
            "do_xcom_push": self.do_xcom_push,
            **self._given,
        }
        if isinstance(choice, NoMatch):
            exit_ = Exit(reason=NoRunner.__name__, message=str(choice))
            return _acting_for(self, _AnyRunnerOperator(runner=lambda _: FailingRunner(exit_), **own))
        self.log.info("Runner %s (%s) launches actions of type %s", choice.name, choice.kind, own["type"])
        own |= {"inputs": self.inputs, "output_assets": self.output_assets}
        return _acting_for(self, _made(choice, self._rendered(choice, context), own))

    def _action_arguments(self) -> Any:
        if self.service_name is not None:
            return [] if self.arguments is None else self.arguments
        arguments = self.arguments or {}
        if not isinstance(arguments, Mapping):
            raise ValueError(
                f"arguments is of type {type(arguments).__name__}: it must be a mapping unless service_name"
                " is given"
            )
        return arguments

    def _rendered(self, choice: RunnerConfig, context: Mapping[str, Any]) -> dict[str, Any]:
        """Return the runner's options, rendered: to text, also in Dags whose own templates become objects."""
        environment = self.dag.get_template_env(force_sandboxed=True).overlay(undefined=StrictUndefined)
        action = {
            "type": self.options.type,
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
    """For runners that have no operator of their own."""

    def __init__(self, *, runner: Callable[[BaseActionOperator], Runner], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._make = runner

    def make_runner(self, context: Mapping[str, Any]) -> Runner:
        """Make the runner that was given."""
        return self._make(self)

    def spec(self, runner: Runner) -> ActionSpec:
        """Return what is asked of the server."""
        return replace(super().spec(runner), adoptable=isinstance(runner, AdoptableRunner))


def _choose(type_: Any) -> RunnerConfig | NoMatch:
    """Return the runner of a type, checked as far as a Dag's parser may know it.

    :raises ValueError: the type is no plain text, or the configuration makes no sense
    """
    if not isinstance(type_, str) or not type_ or "{{" in type_:
        raise ValueError(f"type is {type_!r}: it must be plain text, since it decides on queue and pool")
    fallback = settings.load().fallback_on_first
    choice = choose_runner(runner_config.load(), type_, fallback_on_first=fallback)
    if isinstance(choice, RunnerConfig) and choice.kind == KUBERNETES:
        from airflow_asyncaction.operators.pod_checks import find_unsupported
        from airflow_asyncaction.operators.pod_options import list_pod_options

        if refused := find_unsupported(choice.options):
            said = "; ".join(refused)
            raise ValueError(f"[asyncaction] runners: {choice.name}: options that pods do not take: {said}")
        known = {*list_pod_options(), *runner_config.COMMON_OPTIONS}
        runner_config.check_names(choice.name, choice.options, known)
    return choice


def _made(choice: RunnerConfig, options: dict[str, Any], own: dict[str, Any]) -> BaseActionOperator:
    """Return the operator of a runner's kind; of options that are given twice, the Dag author's wins."""
    if choice.kind == LOCAL:
        return LocalActionOperator(**{**options, **own})
    if choice.kind == SERVICE:
        function, arguments = import_object(options.pop("callable")), own["arguments"]
        own.pop("skip_on_exit_code", None)  # a callable has no exit code
        how = "op_kwargs" if isinstance(arguments, Mapping) else "op_args"
        return ServiceActionOperator(**{**options, **own}, python_callable=function, **{how: arguments})
    if choice.kind == KUBERNETES:
        from airflow_asyncaction.operators.kubernetes import KubeActionOperator
        from airflow_asyncaction.operators.pod_options import convert_pod_options

        pushes = None if own["do_xcom_push"] else False  # True asks for a file, as of KubernetesPodOperator
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
                stop_grace=operator.options.stop_grace,
                log=operator.log,
            )
        )
        return runner

    return _AnyRunnerOperator(runner=make, **{**common, **own})


def _acting_for(task: BaseActionOperator, operator: BaseActionOperator) -> BaseActionOperator:
    operator.acts_for = task
    return operator
