# SPDX-License-Identifier: Apache-2.0
"""Run a container image as a pod."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, cast

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from kubernetes import client as k8s

from airflow_asyncaction import settings
from airflow_asyncaction.hooks.in_process import hook_url, is_in_process, remote_hook_url
from airflow_asyncaction.hooks.task import PATIENCE, Registration, TaskHook
from airflow_asyncaction.links import ActionLink
from airflow_asyncaction.operators.arguments import Arguments
from airflow_asyncaction.operators.attempt import register
from airflow_asyncaction.operators.base import BaseActionOperator, Seconds, as_duration
from airflow_asyncaction.operators.deferral import needs_worker, time_left
from airflow_asyncaction.operators.pod_access import check_hook, connected
from airflow_asyncaction.operators.pod_refusals import refusals
from airflow_asyncaction.protocol.actions import Completion, StopReason
from airflow_asyncaction.protocol.job_info import JOB_SECRET_KEY, JobInfo
from airflow_asyncaction.protocol.lifecycle import Stop
from airflow_asyncaction.protocol.tasks import ActionSpec, Deferral
from airflow_asyncaction.runners.base import Runner
from airflow_asyncaction.runners.kubernetes import KubeRunner, PodOptions
from airflow_asyncaction.runners.local import base_environ
from airflow_asyncaction.runners.manifest_variables import ENV, render_around
from airflow_asyncaction.runners.pods.log import LogPosition, PodLine
from airflow_asyncaction.runners.pods.return_file import ReturnFile, add_return_file
from airflow_asyncaction.runners.pods.spec import pod_of_manifest
from airflow_asyncaction.runners.task_log import write_pod_line
from airflow_asyncaction.triggers.pods.trigger import PodActionTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

# Where a job's secret is kept.
_IN_SECRET, _IN_ENV = "secret", "env"
# The cluster's own word on why a pod does not start comes before the server's clock.
_START_MARGIN = timedelta(minutes=1)


class KubeActionOperator(BaseActionOperator, KubernetesPodOperator):
    """Run an image as a pod that may report back. Takes the arguments of KubernetesPodOperator.

    Purpose: run any image as a task, and report exactly how it ended. While deferred, it needs no worker and
    no polling: one watch for all pods sees the exit, and the API server ends the task.

    How it works: KubernetesPodOperator builds the pod; a :class:`KubeRunner` creates and watches it. After
    ``defer_after`` the task is deferred, and a trigger watches in its place.

    What it does not do: run a sidecar for XCom, and take arguments that it cannot honour: it refuses them,
    and says what to use instead (:mod:`~airflow_asyncaction.operators.pod_refusals`).

    :param arguments: a mapping is the action's arguments; a list is the container's, as is ``args``; with
        ``service_name`` it is the action's in either case
    :param args: arguments of the container's command (templated)
    :param job_resources: a whole manifest of kind Pod or Job: YAML, the path of a file, or a mapping
        (templated). Replaced in it are ``${JOB_ID}``, ``${JOB_HOOK}`` and the like, ``${image}``,
        ``${serviceName}`` (name of the runner; else ``name``, or the task's id) and ``${env.NAME}`` (the
        worker's environment)
    :param job_secret: ``"secret"``: a Kubernetes Secret that the pod owns; ``"env"``: in the pod's
        environment in clear, where no right on secrets is to be had
    :param start_timeout: of the pod, and of the job's first report where one must come;
        ``startup_timeout_seconds``, of the pod alone, unless given
    :param stop_grace: ``termination_grace_period`` unless given, else 10 seconds
    :param do_xcom_push: whether what the job reports becomes the XCom ``return_value``, which it does unless
        this is False. If it is True, what the container writes to ``/airflow/xcom/return.json``, less than
        4096 bytes of JSON, is reported for it when it exits with code 0
    :param durable: whether the next try adopts the pod of a worker that died. It does unless this, or
        ``reattach_on_restart``, is False
    :param deferrable: ``[operators] default_deferrable`` unless given
    :param defer_after: how long the worker waits before it defers; ``[asyncaction] defer_after`` unless given
    """

    arguments: Any  # the action's; the container's are args
    skip_on_exit_code: Any  # as BaseActionOperator has it

    template_fields: Sequence[str] = tuple(
        dict.fromkeys(
            (
                *BaseActionOperator.template_fields,
                *KubernetesPodOperator.template_fields,
                "args",
                "job_resources",
            )
        )
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **KubernetesPodOperator.template_fields_renderers,
        **BaseActionOperator.template_fields_renderers,
        "job_resources": "yaml",
    }

    def __init__(
        self,
        *,
        arguments: Arguments | None = None,
        service_name: str | None = None,
        args: Sequence[str] | None = None,
        job_resources: Any = None,
        job_secret: str = _IN_SECRET,
        start_timeout: Seconds | None = None,
        stop_grace: Seconds | None = None,
        defer_after: Seconds | None = None,
        do_xcom_push: bool | None = None,
        **kwargs: Any,
    ) -> None:
        _check({**(kwargs.get("default_args") or {}), **kwargs}, job_secret)
        are_the_actions = isinstance(arguments, Mapping) or service_name is not None
        self._expects_start = start_timeout is not None
        if start_timeout is None:
            start_timeout = kwargs.get("startup_timeout_seconds", 120)
        if stop_grace is None:
            stop_grace = kwargs.get("termination_grace_period") or 10
        action_arguments: Any = arguments if are_the_actions else None
        super().__init__(
            arguments=action_arguments,
            service_name=service_name,
            start_timeout=start_timeout,
            stop_grace=stop_grace,
            do_xcom_push=do_xcom_push is not False,
            **kwargs,
        )
        self.args = args if args is not None or are_the_actions else arguments
        self.job_resources = job_resources
        self.job_secret = job_secret
        self.defer_after = as_duration("defer_after", defer_after, may_be_zero=True)
        self.runner_name: str | None = None
        self.reads_return_file = do_xcom_push is True and self.options.completion is Completion.EXIT

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render the fields."""

        def render(manifest: Any) -> Any:
            self.job_resources = manifest
            super(KubeActionOperator, self).render_template_fields(context, jinja_env)
            return self.job_resources

        self.job_resources = render_around(self.job_resources, render)

    def make_runner(self, context: Mapping[str, Any]) -> Runner:
        """Return a runner of pods that lets go after ``defer_after`` if this task may be deferred."""
        self._check_hook()
        can_defer = self.deferrable and not is_in_process()
        after = settings.load().defer_after if self.defer_after is None else self.defer_after
        return self._runner(context, let_go_after=after if can_defer else None)

    def build_spec(self, runner: Runner) -> ActionSpec:
        """Return the action as it is registered with the server."""
        spec, start_timeout = super().build_spec(runner), None
        if self._expects_start and spec.start_timeout is not None:
            start_timeout = spec.start_timeout + _START_MARGIN
        return replace(spec, adoptable=True, takes_over=bool(self.durable), start_timeout=start_timeout)

    def run_attempt(
        self, hook: TaskHook, registration: Registration, runner: Runner, context: Any, *, after_line: int = 0
    ) -> Any:
        """Let the runner carry the action out; it keeps the task key beside the pod, for the trigger."""
        if isinstance(runner, KubeRunner):
            runner.task_key = registration.credentials.secret_key
            registration = replace(registration, info=replace(registration.info, hook=remote_hook_url()))
        return super().run_attempt(hook, registration, runner, context, after_line=after_line)

    def defer_attempt(
        self, hook: TaskHook, registration: Registration, runner: Runner, context: Any, *, after_line: int
    ) -> NoReturn:
        """Defer the task: from here on a trigger watches the pod, and the server completes the task."""
        if not isinstance(runner, KubeRunner):
            raise TypeError(f"{type(runner).__name__} watches no pod")
        deferral = Deferral(
            needs_worker=needs_worker(self.airflow_task, reads_log=self.get_logs),
            pushes_results=self.do_xcom_push,
        )
        ActionLink().push(context)
        hook.defer(registration.credentials, deferral)
        action_id = registration.info.job_id
        position = runner.position.to_json()
        trigger = PodActionTrigger(
            action_id=action_id,
            ti_id=str(context["ti"].id),
            pod={**runner.pod, "init_containers": runner.left_init_logs},
            container=self.base_container_name,
            cluster=self.place(),
            log=position,
            after_line=after_line,
            get_logs=self.get_logs,
            stop_grace_seconds=self.stop_grace.total_seconds(),
            start_by_ms=_unix_ms(runner.start_by),
            on_finish=self.on_finish_action.value,
            keep_on_kill=self.on_kill_action.value == "keep_pod",
            skip_on_exit_code=list(self.skip_on_exit_code),
        )
        self.log.info("The task is deferred: a trigger watches the pod")
        self.defer(
            trigger=trigger,
            method_name="resume",
            kwargs={"action_id": action_id, "log": position, "after_line": after_line},
            timeout=time_left(self.execution_timeout, context),
        )

    def resume(self, context: Any, action_id: str, log: list[Any], after_line: int, event: Any = None) -> Any:
        """Go on where the task was deferred: take the action's end, or look after its job again."""
        if isinstance(event, Mapping) and "reason" in event:
            self.log.warning("The trigger gave the pod back: %s", event["reason"])
        return self._resume(context, action_id, position=LogPosition.from_json(log), after_line=after_line)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Go on after a deferral, also after one that failed: the job still runs.

        It is stopped if ``execution_timeout`` is over; else the worker watches it in the trigger's place.
        """
        if next_method != TRIGGER_FAIL_REPR:
            return super().resume_execution(next_method, next_kwargs, context)
        failure = next_kwargs or {}
        if failure.get("error") == TriggerFailureReason.TRIGGER_TIMEOUT:
            return self._resume(context, stop=StopReason.EXECUTION_TIMEOUT)
        self.log.warning("The trigger failed: %s", "".join(failure.get("traceback") or ()))
        return self._resume(context)

    def build_pod_request_obj(self, context: Any = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """Return the pod as KubernetesPodOperator builds it, without a sidecar for XCom."""
        arguments, do_xcom_push = self.arguments, self.do_xcom_push
        self.arguments, self.do_xcom_push = self.args or [], False
        try:
            pod = super().build_pod_request_obj(context, dry_run=dry_run)
        finally:
            self.arguments, self.do_xcom_push = arguments, do_xcom_push
        if self.reads_return_file:
            add_return_file(pod, self.base_container_name)
        return pod

    def place(self) -> dict[str, Any]:
        """Return how a trigger comes to the cluster."""
        return {
            "conn_id": self.kubernetes_conn_id,
            "in_cluster": self.in_cluster,
            "cluster_context": self.cluster_context,
            "config_file": self.config_file,
        }

    def pod_options(self, *, let_go_after: timedelta | None = None) -> PodOptions:
        """Return what a runner is asked for.

        :param let_go_after: how long it watches; ``None``: to the end
        """
        return PodOptions(
            container=self.base_container_name,
            stop_grace=self.stop_grace,
            start_timeout=self.options.start_timeout,
            let_go_after=let_go_after,
            secret_in_env=self.job_secret == _IN_ENV,
            get_logs=self.get_logs,
            on_finish=self.on_finish_action.value,
            keep_on_kill=self.on_kill_action.value == "keep_pod",
            init_logs=_init_logs(self.init_container_logs),
        )

    def _runner(
        self,
        context: Mapping[str, Any],
        *,
        let_go_after: timedelta | None = None,
        position: LogPosition | None = None,
    ) -> KubeRunner:
        self.name = self._set_name(self.name)

        def make_pod(info: JobInfo) -> k8s.V1Pod:
            if self.job_resources is not None:
                self.full_pod_spec = pod_of_manifest(self.job_resources, self._variables(info))
            return self.build_pod_request_obj(context)

        return_file = ReturnFile(
            self.base_container_name,
            lambda info, results: TaskHook(hook_url()).report_results(info, results),
        )
        return KubeRunner(
            connected(lambda: self.client, self.place()),
            make_pod,
            task_labels=self._get_ti_pod_labels(cast("Context", context), include_try_number=False),
            options=self.pod_options(let_go_after=let_go_after),
            write_line=self._write_line,
            position=position or LogPosition(),
            on_pod=lambda pod: self._push_pod(context, pod),
            return_file=return_file,
        )

    def _check_hook(self) -> None:
        options = self.options
        is_template = any((self.job_resources, self.full_pod_spec, self.pod_template_file))
        if not self.hostnetwork:  # else, on a cluster of one node, it may be right
            check_hook(
                remote_hook_url(),
                is_in_process=is_in_process(),
                must_report=not (is_template or self.pod_template_dict)
                and (
                    options.require_report
                    or options.completion is Completion.REPORT
                    or options.heartbeat_timeout is not None
                    or self._expects_start
                ),
                log=self.log,
            )

    def _push_pod(self, context: Mapping[str, Any], pod: Mapping[str, str]) -> None:
        """Push the XComs that KubernetesPodOperator pushes, at the same moment."""
        context["ti"].xcom_push(key="pod_name", value=pod["name"])
        context["ti"].xcom_push(key="pod_namespace", value=pod["namespace"])

    def _variables(self, info: JobInfo) -> dict[str, str]:
        """Return what stands for variables in ``job_resources``."""
        variables = {ENV + name: value for name, value in base_environ(os.environ).items()}
        variables |= {name: value for name, value in info.to_environ().items() if name != JOB_SECRET_KEY}
        variables["serviceName"] = str(self.runner_name or self.name or self._set_name(self.task_id))
        return {**variables, "image": self.image} if self.image else variables

    def _resume(
        self,
        context: Any,
        action_id: str | None = None,
        *,
        position: LogPosition | None = None,
        after_line: int = 0,
        stop: StopReason | None = None,
    ) -> Any:
        runner = self._runner(context, position=position)
        runner.expect_job()
        hook = TaskHook(hook_url())
        registration = register(hook, context, self.build_spec(runner), resumes=action_id)
        credentials = registration.credentials
        view = (
            hook.read(credentials, patience=PATIENCE) if stop is None else hook.tell(credentials, Stop(stop))
        )
        if view.is_done and view.exit_seen:  # the trigger has read the log, and cleared up
            return self.finish(hook, registration, runner, view, context)
        return self.run_attempt(hook, registration, runner, context, after_line=after_line)

    def _write_line(self, line: PodLine) -> None:
        write_pod_line(self.log, line)


def _init_logs(wanted: Any) -> list[str] | bool:
    """Return ``init_container_logs`` as the runner takes it: names, or whether all are wanted."""
    if wanted is None or isinstance(wanted, bool):
        return bool(wanted)
    return [wanted] if isinstance(wanted, str) else list(wanted)


def _check(given: Mapping[str, Any], job_secret: str) -> None:
    """Check the arguments that can be wrong by themselves.

    :raises ValueError: some are refused; the message names them all
    """
    wrong = [f"KubeActionOperator takes no {said}" for said in refusals(given)]
    if job_secret not in (_IN_SECRET, _IN_ENV):
        wrong.append(f"job_secret is {job_secret!r}: it must be {_IN_SECRET!r} or {_IN_ENV!r}")
    if wrong:
        raise ValueError("\n".join(wrong))


def _unix_ms(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
