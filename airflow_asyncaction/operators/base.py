# SPDX-License-Identifier: Apache-2.0
"""Base operator: registers an action, runs its job, and returns its results or raises its error."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_asyncaction import settings
from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.in_process import hook_url, task_url
from airflow_asyncaction.hooks.task import Registration, TaskHook
from airflow_asyncaction.links import ActionLink
from airflow_asyncaction.operators.arguments import (
    ArgumentsOperator,
    derive_arguments,
    find_argument,
    use_linear_params,
)
from airflow_asyncaction.operators.attempt import Attempt, register
from airflow_asyncaction.operators.files import (
    add_event_extras,
    attach_inputs,
    check_assets,
    check_outlets,
    group_by_property,
    push_files,
)
from airflow_asyncaction.operators.task_exceptions import build_exception
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import ActionOptions, Completion, State, StopReason
from airflow_asyncaction.protocol.files import DEFAULT_STORE
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit, Stop
from airflow_asyncaction.protocol.tasks import RESULTS_CHANGED, ActionSpec, TaskCredentials, TaskView
from airflow_asyncaction.runners.base import AdoptableRunner, Runner
from airflow_asyncaction.runners.skip_codes import parse_skip_codes

if TYPE_CHECKING:
    from airflow_asyncaction.airflow_internals.worker.operators import OperatorPartial

Seconds = timedelta | float
"""A duration; a number is seconds."""

_INPUT_FAILURE_PATIENCE = timedelta(seconds=5)


class BaseActionOperator(ArgumentsOperator):
    """Base of the operators that run a job: the task ends as its action ends.

    A subclass implements :meth:`make_runner`.

    :param type: the action's type, e.g. ``"etl.load"``. Defaults to the task's id.
    :param arguments: a JSON-serializable mapping for the job. The job reads it with ``GET /job``, finds it in
        every response to a report and, up to 32 KiB, in ``JOB_ARGUMENTS``. (templated)
    :param service_name: for jobs that run webda's ``runAsyncOperationAction``: the service whose ``method``
        the job calls. ``arguments`` is then a list of positional arguments. (templated)
    :param method: the name of that method. (templated)
    :param orchestrator: the job's ``JOB_ORCHESTRATOR``, by which a webda job finds its AsyncJobService.
        Defaults to ``[asyncaction] orchestrator``.
    :param heartbeat_timeout: the longest time between two reports, in seconds or as a timedelta. When it
        expires, the job is stopped and the action ends as TIMEOUT. No timeout by default.
    :param start_timeout: the longest time until the job starts. When it expires, the job is stopped and the
        action ends as TIMEOUT. No timeout by default.
    :param stop_grace: how long a job may take to stop. It gets the verb STOP, then SIGTERM, and is killed
        when this time is over.
    :param require_report: whether the job must report its end. If so, exit code 0 without a report is the
        error NoReport. Defaults to True with ``service_name``, else to False.
    :param completion: what ends the action. ``"exit"``: the exit of the job, together with what it reported.
        ``"report"``: the report alone, for commands that only submit work. Not allowed with ``service_name``.
    :param max_log_lines: how many reported log lines the server keeps. Defaults to
        ``[asyncaction] max_log_lines``. The task log has all of them in any case.
    :param skip_on_exit_code: one or more exit codes that skip the task. The action then ends as STOPPED with
        the error name ``Skipped``.
    :param accept_v1: whether v1 signatures are accepted, provided that ``[asyncaction] accept_v1`` allows it.
    :param inputs: the job's input files by property name. A value is an absolute path or URL
        (``s3://conn@bucket/x``) of a file or folder, an ObjectStoragePath, a file of an upstream task
        (``task.output["files"]["model"]``), or a list of these. (templated)
    :param output_assets: assets by the name of the output property that updates them. The extra of their
        events has the hash and the size of the file.
    :param file_store: the name of the file store that inputs are copied to.
    """

    operator_extra_links = (ActionLink(),)
    template_fields: Sequence[str] = (*ArgumentsOperator.template_fields, "inputs")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **ArgumentsOperator.template_fields_renderers,
        "inputs": "json",
    }

    def __init__(
        self,
        *,
        type: str | None = None,  # noqa: A002 - the protocol's word
        heartbeat_timeout: Seconds | None = None,
        start_timeout: Seconds | None = None,
        stop_grace: Seconds = 10,
        require_report: bool | None = None,
        completion: str = "exit",
        max_log_lines: int | None = None,
        skip_on_exit_code: int | Container[int] | None = None,
        accept_v1: bool = True,
        inputs: Mapping[str, Any] | None = None,
        output_assets: Mapping[str, Asset] | None = None,
        file_store: str = DEFAULT_STORE,
        **kwargs: Any,
    ) -> None:
        self.output_assets = check_assets(output_assets)
        super().__init__(**{**kwargs, **derive_arguments(type, output_assets, kwargs)})
        use_linear_params(self)
        self.action_type = type or self.task_id
        self.inputs = inputs
        self.file_store = file_store
        self.skip_on_exit_code = parse_skip_codes(skip_on_exit_code)
        self.stop_grace = as_duration("stop_grace", stop_grace, may_be_zero=True) or timedelta(0)
        self.max_log_lines = max_log_lines
        self.options = ActionOptions(
            heartbeat_timeout=as_duration("heartbeat_timeout", heartbeat_timeout),
            start_timeout=as_duration("start_timeout", start_timeout),
            require_report=self.service_name is not None if require_report is None else require_report,
            completion=_parse_completion(completion, self.service_name),
            accept_v1=accept_v1,
            orchestrator=self.orchestrator,
        )
        self.delegated_by: BaseOperator | None = None
        self._attempt: Attempt | None = None

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Begin mapping the task. ``output_assets`` cannot be expanded: the scheduler must know them."""
        partial: OperatorPartial = super().partial(**kwargs)
        assets = find_argument("output_assets", partial.kwargs, kwargs.get("default_args"))
        partial.kwargs["output_assets"] = assets  # makes expand() refuse this argument
        partial.kwargs.update(derive_arguments(kwargs.get("type"), assets, partial.kwargs))
        return partial

    @property
    def airflow_task(self) -> BaseOperator:
        """The operator that Airflow runs: this one, or the one that delegates to it."""
        return self.delegated_by or self

    @abstractmethod
    def make_runner(self, context: Mapping[str, Any]) -> Runner:
        """Return the runner for the job of this attempt."""

    def execute(self, context: Any) -> Any:
        """Run the action. Return its results, or raise an exception unless it ended as SUCCESS."""
        return self.run_action(context)

    def run_action(self, context: Any) -> Any:
        """Register the action and run its job. Other operators delegate to this, not to :meth:`execute`."""
        check_outlets(self.airflow_task, self.output_assets)
        runner = self.make_runner(context)
        hook = TaskHook(task_url(), hook_url=hook_url())
        registration = register(hook, context, self.build_spec(runner))
        info = registration.info
        context["ti"].xcom_push(key="action_id", value=info.job_id)
        self.log.info("Registered action %s of type %s", info.job_id, self.action_type)
        if not registration.was_launched:
            self._attach_inputs(hook, registration.credentials)
        elif isinstance(runner, AdoptableRunner):
            self.log.info("An earlier process of this task launched the job: adopting it")
            runner.expect_job()
        return self.run_attempt(hook, registration, runner, context)

    def run_attempt(
        self, hook: TaskHook, registration: Registration, runner: Runner, context: Any, *, after_line: int = 0
    ) -> Any:
        """Run the job of a registered action. Return the action's results, or raise its error.

        :param after_line: the number of the last reported line that the task log already has
        """
        self._attempt = Attempt(
            hook,
            registration,
            runner,
            self.log,
            poll_interval=settings.load().poll_interval,
            after_line=after_line,
            has_timeout=self.airflow_task.execution_timeout is not None,
            skip_codes=self.skip_on_exit_code,
        )
        view = self._attempt.run()
        if view is None:
            self.defer_attempt(hook, registration, runner, context, after_line=self._attempt.last_line)
        return self.finish(hook, registration, runner, view, context)

    def defer_attempt(
        self, hook: TaskHook, registration: Registration, runner: Runner, context: Any, *, after_line: int
    ) -> NoReturn:
        """Defer the task, because its runner stopped watching a job that is still running.

        :param after_line: the number of the last reported line that the task log already has
        """
        raise NotImplementedError(f"{type(runner).__name__} cannot defer a task")

    def finish(
        self, hook: TaskHook, registration: Registration, runner: Runner, view: TaskView, context: Any
    ) -> Any:
        """Publish the output files of an action that is done. Return its results, or raise its error.

        :raises ActionEnded: the action did not end as SUCCESS
        """
        self.log.info("Action %s ended as %s", registration.info.job_id, view.state)
        self._publish_outputs(hook, registration.credentials, view, context)
        return self.get_results(view, registration.info, runner)

    def on_kill(self) -> None:
        """Stop the job, because Airflow is about to kill this process. Runs in a signal handler."""
        if self._attempt is not None:
            self._attempt.kill()

    def get_results(self, view: TaskView, info: JobInfo, runner: Runner) -> Any:
        """Return the results of an action that is done, or raise its error.

        :raises ActionEnded: the action did not end as SUCCESS; the subclass ``ActionSkipped`` skips the task
        """
        if view.state is State.SUCCESS:
            return (
                None
                if view.results is None
                else self.warn_if_changed(*strict_json.xcom_and_changed(view.results))
            )
        is_stop_requested = view.stop_reason is StopReason.REQUESTED
        raise build_exception(info.job_id, view, is_stop_requested=is_stop_requested)

    def warn_if_changed(self, xcom: Any, is_changed: bool) -> Any:
        """Return the XCom, and log a warning if it differs from the results."""
        if is_changed:
            self.log.warning(RESULTS_CHANGED)
        return xcom

    def build_spec(self, runner: Runner) -> ActionSpec:
        """Return the action as it is registered with the server."""
        kept_lines = (
            settings.load().limits.max_log_lines if self.max_log_lines is None else self.max_log_lines
        )
        return ActionSpec(
            type=self.action_type,
            runner=runner.name,
            arguments=self.encode_arguments(),
            service_name=self.service_name,
            method=self.method,
            **vars(replace(self.options, max_log_lines=kept_lines)),
        )

    def _attach_inputs(self, hook: TaskHook, credentials: TaskCredentials) -> None:
        try:
            attach_inputs(hook, credentials, self.inputs, store=self.file_store)
        except BaseException as error:  # no job is launched, so nothing else ends the action
            with suppress(ServerError):
                if isinstance(error, AirflowTaskTimeout):
                    stop = Stop(StopReason.EXECUTION_TIMEOUT)
                    hook.send_message(credentials, stop, patience=_INPUT_FAILURE_PATIENCE)
                exit_ = Exit(reason="InputFailed", message=str(error))
                hook.send_message(credentials, exit_, patience=_INPUT_FAILURE_PATIENCE)
            raise

    def _publish_outputs(
        self, hook: TaskHook, credentials: TaskCredentials, view: TaskView, context: Any
    ) -> None:
        """Publish output files as XComs and asset events, whatever the action's state is."""
        try:
            files = group_by_property(hook.outputs(credentials))
        except ServerError as error:
            if view.state is State.SUCCESS:
                raise
            self.log.warning("%s", error)  # the action's own error is the one to raise
            return
        push_files(context["ti"], files)
        add_event_extras(self.airflow_task, context, self.output_assets, files)


def _parse_completion(text: str, service_name: str | None) -> Completion:
    try:
        completion = Completion(text)
    except ValueError:
        raise ValueError(f'completion is {text!r}: it must be "exit" or "report"') from None
    if completion is Completion.REPORT and service_name is not None:
        raise ValueError(
            'completion="report" cannot be combined with service_name: such a job reports when its method has'
            ' returned, and a process that exits without a report has failed. Use completion="exit"'
        )
    return completion


def as_duration(name: str, value: Any, *, may_be_zero: bool = False) -> timedelta | None:
    """Return a duration that a Dag author passed in seconds or as a timedelta.

    :raises ValueError: it is not a duration, or not positive
    """
    duration, zero = value, timedelta(0)
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # NaN, infinity
            duration = timedelta(seconds=value)
    if duration is None:
        return None
    if not isinstance(duration, timedelta) or duration < zero or (duration == zero and not may_be_zero):
        raise ValueError(f"{name} is {value!r}: it must be a positive number of seconds or a timedelta")
    return duration


def time_left(execution_timeout: timedelta | None, context: Mapping[str, Any]) -> timedelta | None:
    """Return the rest of a task's ``execution_timeout``: at least 1 s, enough to stop the job properly."""
    if execution_timeout is None:
        return None
    elapsed: timedelta = datetime.now(UTC) - context["ti"].start_date
    return max(execution_timeout - elapsed, timedelta(seconds=1))
