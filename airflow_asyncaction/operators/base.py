# SPDX-License-Identifier: Apache-2.0
"""What all operators of this package share: options of an action, and the way from action to task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_asyncaction import settings
from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.in_process import hook_url
from airflow_asyncaction.hooks.task import Registration, TaskHook
from airflow_asyncaction.links import ActionLink
from airflow_asyncaction.operators.attempt import Attempt, register
from airflow_asyncaction.operators.inputs import checked_inputs, give_inputs
from airflow_asyncaction.operators.outputs import (
    by_property,
    check_outlets,
    checked_assets,
    emit_events,
    push_files,
)
from airflow_asyncaction.operators.params import use_linear_params
from airflow_asyncaction.operators.scheduling import for_scheduler, from_author
from airflow_asyncaction.operators.service_call import ServiceCallOperator
from airflow_asyncaction.operators.task_exceptions import as_exception
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import Completion, State, StopReason
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


@dataclass(frozen=True, kw_only=True)
class ActionOptions:
    """The options of an action, checked."""

    type: str
    heartbeat_timeout: timedelta | None
    start_timeout: timedelta | None
    stop_grace: timedelta
    require_report: bool
    completion: Completion
    max_log_lines: int | None
    accept_v1: bool


class BaseActionOperator(ServiceCallOperator):
    """Base of the operators: registers an action, lets a runner carry it out, and ends as it ends.

    A subclass names its runner (:meth:`make_runner`), and adds what that needs.

    :param type: what kind of action it is, e.g. ``"etl.load"``; the task's id unless given
    :param arguments: JSON-able object for the job: it gets it by ``GET /job``, with every answer, and, up to
        32 KiB, as ``JOB_ARGUMENTS`` (templated)
    :param service_name: for jobs of webda's ``runAsyncOperationAction``: the service of the application whose
        ``method`` the job calls; ``arguments`` is then a list, passed by position (templated)
    :param method: the name of that method (templated)
    :param orchestrator: the job's ``JOB_ORCHESTRATOR``; a webda job looks up its AsyncJobService by it.
        ``[asyncaction] orchestrator`` unless given
    :param heartbeat_timeout: without a report for that long (seconds, or timedelta), the action ends as
        TIMEOUT and the job is stopped
    :param start_timeout: if the job has not started within that long, likewise
    :param stop_grace: between asking a job to stop (the verb STOP, then SIGTERM) and killing it
    :param require_report: whether a job must report its end: exit code 0 alone is then the error NoReport;
        true for a job with a ``service_name``, unless given
    :param completion: ``"exit"``: the job's exit, with what it reported, is the end; ``"report"``: it only
        submits the work, and the action ends with the report; not for a job with a ``service_name``, which
        reports itself
    :param max_log_lines: how many reported log lines the server keeps; all of them are copied into the task
        log
    :param skip_on_exit_code: an exit code, or several, with which the job skips itself: its action ends as
        STOPPED with the error name ``Skipped``, and the task is skipped. None unless given
    :param accept_v1: whether v1 signatures are accepted for this action, if they are at all
    :param inputs: files for the job, by the name it asks for: an absolute path or an URL (``s3://conn@bucket/x``)
        of a file or folder, an ObjectStoragePath, what another task's job has left
        (``task.output["files"]["model"]``), or a list of those (templated)
    :param output_assets: assets that are updated when the job leaves files of this name, with their hash and
        size in the event's extra
    :param file_store: name of the file store that inputs are put into
    """

    operator_extra_links = (ActionLink(),)
    template_fields: Sequence[str] = (*ServiceCallOperator.template_fields, "inputs")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **ServiceCallOperator.template_fields_renderers,
        "inputs": "json",
    }

    def __init__(
        self,
        *,
        type: str | None = None,  # noqa: A002 - the word of the protocol
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
        self.output_assets = checked_assets(output_assets)
        super().__init__(**{**kwargs, **for_scheduler(type, output_assets, kwargs)})
        use_linear_params(self)
        self.inputs = inputs
        self.file_store = file_store
        self.skip_on_exit_code = parse_skip_codes(skip_on_exit_code)
        self.options = ActionOptions(
            type=type or self.task_id,
            heartbeat_timeout=as_duration("heartbeat_timeout", heartbeat_timeout),
            start_timeout=as_duration("start_timeout", start_timeout),
            stop_grace=as_duration("stop_grace", stop_grace, may_be_zero=True) or timedelta(0),
            require_report=self.service_name is not None if require_report is None else require_report,
            completion=_completion(completion),
            max_log_lines=max_log_lines,
            accept_v1=accept_v1,
        )
        if self.service_name is not None and self.options.completion is Completion.REPORT:
            raise ValueError(
                'completion="report" is not for a job with a service_name: it reports once its method has'
                ' returned, and a process that ends without a report is an error. Leave completion="exit"'
            )
        self.acts_for: BaseOperator | None = None
        self._attempt: Attempt | None = None

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Begin to map the task, over anything but output_assets: the scheduler has to know them all."""
        partial: OperatorPartial = super().partial(**kwargs)
        assets = from_author("output_assets", partial.kwargs, kwargs.get("default_args"))
        partial.kwargs["output_assets"] = assets  # so that expand() refuses others
        partial.kwargs.update(for_scheduler(kwargs.get("type"), assets, partial.kwargs))
        return partial

    @property
    def airflow_task(self) -> BaseOperator:
        """What Airflow knows as the task: this, unless it carries out what another operator was asked for."""
        return self.acts_for or self

    @abstractmethod
    def make_runner(self, context: Mapping[str, Any]) -> Runner:
        """Return what will run the job of this try."""

    def execute(self, context: Any) -> Any:
        """Run the job; its results are returned, and any other end than SUCCESS is raised."""
        return self.perform(context)

    def perform(self, context: Any) -> Any:
        """Do what :meth:`execute` does, which Airflow lets nobody call but itself."""
        check_outlets(self.airflow_task, self.output_assets)
        runner = self.make_runner(context)
        hook = TaskHook(hook_url())
        registration = register(hook, context, self.spec(runner))
        info = registration.info
        context["ti"].xcom_push(key="action_id", value=info.job_id)
        self.log.info("Action %s of type %s", info.job_id, self.options.type)
        if not registration.was_launched:
            self._give_inputs(hook, registration.credentials)
        elif isinstance(runner, AdoptableRunner):
            self.log.info("Its job was started before: this try goes on with it")
            runner.expect_job()
        return self.carry_out(hook, registration, runner, context)

    def carry_out(
        self, hook: TaskHook, registration: Registration, runner: Runner, context: Any, *, after_line: int = 0
    ) -> Any:
        """Let the runner carry a registered action out; return its results, or raise what it ended with."""
        interval = settings.load().poll_interval
        self._attempt = Attempt(
            hook,
            registration,
            runner,
            self.log,
            poll_interval=interval,
            after_line=after_line,
            has_timeout=self.airflow_task.execution_timeout is not None,
            skips=self.skip_on_exit_code,
        )
        view = self._attempt.carry_out()
        if view is None:
            self.hand_over(hook, registration, runner, context, after_line=self._attempt.last_line)
        return self.take_end(hook, registration, runner, view, context)

    def take_end(
        self, hook: TaskHook, registration: Registration, runner: Runner, view: TaskView, context: Any
    ) -> Any:
        """Return the results of an action that is done, or raise what it ended with.

        :raises ActionEnded: it ended otherwise than in SUCCESS
        """
        self.log.info("Action %s ended as %s", registration.info.job_id, view.state)
        self._take_outputs(hook, registration.credentials, view, context)
        return self.end(view, registration.info, runner)

    def hand_over(
        self, hook: TaskHook, registration: Registration, runner: Runner, context: Any, *, after_line: int
    ) -> NoReturn:
        """Defer the task of a job that its runner has let go.

        :param after_line: number of the last reported line that is in the task log
        """
        raise NotImplementedError(f"{type(runner).__name__} lets no job go")

    def on_kill(self) -> None:
        """End the job: Airflow is about to kill this process. Called from a signal handler."""
        if self._attempt is not None:
            self._attempt.kill()

    def end(self, view: TaskView, info: JobInfo, runner: Runner) -> Any:
        """Return the results of an action that ended, or raise what it ended with.

        :raises ActionEnded: it ended otherwise than in SUCCESS; ``ActionSkipped`` skips the task
        """
        if view.state is State.SUCCESS:
            return None if view.results is None else self.noting_changes(*strict_json.xcom_of(view.results))
        raise as_exception(
            info.job_id,
            view.state,
            view.error_name,
            view.error_message,
            is_stop_requested=view.stop_reason is StopReason.REQUESTED,
        )

    def noting_changes(self, pushed: Any, is_changed: bool) -> Any:
        """Return what becomes the XCom. If it differs from the results, the task log says so."""
        if is_changed:
            self.log.warning(RESULTS_CHANGED)
        return pushed

    def _give_inputs(self, hook: TaskHook, credentials: TaskCredentials) -> None:
        try:
            give_inputs(hook, credentials, checked_inputs(self.inputs), store=self.file_store)
        except BaseException as error:  # nothing is launched: the action ends here
            patience = timedelta(seconds=5)
            with suppress(ServerError):
                if isinstance(error, AirflowTaskTimeout):
                    hook.tell(credentials, Stop(StopReason.EXECUTION_TIMEOUT), patience=patience)
                exit_ = Exit(reason="InputFailed", message=str(error))
                hook.tell(credentials, exit_, patience=patience)
            raise

    def _take_outputs(
        self, hook: TaskHook, credentials: TaskCredentials, view: TaskView, context: Any
    ) -> None:
        """Let Airflow know what files the job has left, however it ended."""
        try:
            files = by_property(hook.outputs(credentials))
        except ServerError as error:
            if view.state is State.SUCCESS:
                raise
            self.log.warning("%s", error)  # the action's own failure is the one to be raised
            return
        push_files(context["ti"], files)
        emit_events(self.airflow_task, context, self.output_assets, files)

    def spec(self, runner: Runner) -> ActionSpec:
        """Return what is asked of the server."""
        options, limits = self.options, settings.load().limits
        return ActionSpec(
            type=options.type,
            runner=runner.name,
            arguments=self.checked_arguments(),
            service_name=self.service_name,
            method=self.method,
            orchestrator=self.orchestrator,
            completion=options.completion,
            require_report=options.require_report,
            start_timeout=options.start_timeout,
            heartbeat_timeout=options.heartbeat_timeout,
            accept_v1=options.accept_v1,
            max_log_lines=limits.max_log_lines if options.max_log_lines is None else options.max_log_lines,
        )


def _completion(text: str) -> Completion:
    try:
        return Completion(text)
    except ValueError:
        raise ValueError(f'completion is {text!r}: it must be "exit" or "report"') from None


def as_duration(name: str, value: Any, *, may_be_zero: bool = False) -> timedelta | None:
    """Return a duration that a Dag author gave.

    :raises ValueError: it is none, or not positive
    """
    if value is None:
        return None
    duration = _as_timedelta(value)
    if duration is None or duration < timedelta(0) or (duration == timedelta(0) and not may_be_zero):
        raise ValueError(f"{name} is {value!r}: it must be a positive number of seconds or a timedelta")
    return duration


def _as_timedelta(value: Any) -> timedelta | None:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # NaN, infinity
            return timedelta(seconds=value)
    return None
