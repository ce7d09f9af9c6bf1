# SPDX-License-Identifier: Apache-2.0
"""Kubernetes operator: runs a container image as a pod."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, cast

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes import client as k8s

from airflow_asyncaction import settings
from airflow_asyncaction.airflow_internals.worker.operators import (
    TRIGGER_FAIL_REPR,
    TriggerFailureReason,
    needs_worker_after_success,
)
from airflow_asyncaction.airflow_internals.worker.task_process import is_in_process
from airflow_asyncaction.hooks.in_process import hook_url, remote_hook_url, task_url
from airflow_asyncaction.hooks.task import PATIENCE, Registration, TaskHook
from airflow_asyncaction.links import ActionLink
from airflow_asyncaction.operators.arguments import Arguments
from airflow_asyncaction.operators.attempt import register
from airflow_asyncaction.operators.base import BaseActionOperator, Seconds, as_duration, time_left
from airflow_asyncaction.operators.pod_checks import check_hook_url, connect_to_cluster, find_unsupported
from airflow_asyncaction.protocol.actions import Completion, StopReason
from airflow_asyncaction.protocol.job_info import JOB_SECRET_KEY, JobInfo
from airflow_asyncaction.protocol.lifecycle import Stop
from airflow_asyncaction.protocol.tasks import ActionSpec, Deferral, NeedsWorker
from airflow_asyncaction.runners.base import Runner, drop_airflow_variables
from airflow_asyncaction.runners.kubernetes import KubeRunner
from airflow_asyncaction.runners.manifest_variables import ENV, render_around
from airflow_asyncaction.runners.pods.creation import PodOptions
from airflow_asyncaction.runners.pods.log import LogPosition
from airflow_asyncaction.runners.pods.return_file import ReturnFile, add_return_file
from airflow_asyncaction.runners.pods.spec import parse_manifest
from airflow_asyncaction.runners.task_log import write_pod_line
from airflow_asyncaction.triggers.pods.trigger import PodActionTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

# Where the job's secret is stored.
_IN_SECRET, _IN_ENV = "secret", "env"
# Gives the cluster time to report why a pod does not start, before the server's timeout expires.
_START_MARGIN = timedelta(minutes=1)


class KubeActionOperator(BaseActionOperator, KubernetesPodOperator):
    """Run an image as a pod that may report back. Takes the arguments of KubernetesPodOperator.

    Purpose: run any image as a task, and report exactly how it ended. A deferred task needs no worker and no
    polling: one watch for all pods sees the exit, and the API server completes the task.

    How it works: KubernetesPodOperator builds the pod, a :class:`KubeRunner` creates and watches it. After
    ``defer_after`` the task is deferred, and a trigger watches instead.

    What it does not do: run a sidecar for XCom, or ignore arguments that it does not support. It rejects
    them, and says what to use instead (:mod:`~airflow_asyncaction.operators.pod_checks`).

    :param arguments: a mapping is the action's arguments; a list is the container's, like ``args``. With
        ``service_name``, arguments always belong to the action
    :param args: arguments of the container's command (templated)
    :param job_resources: a complete manifest of kind Pod or Job: YAML, the path of a file, or a mapping
        (templated). These variables are replaced in it: ``${JOB_ID}``, ``${JOB_HOOK}`` and the like,
        ``${image}``, ``${serviceName}`` (the runner's name, else ``name`` or the task's id) and
        ``${env.NAME}`` (the worker's environment)
    :param job_secret: ``"secret"`` stores the job's secret in a Kubernetes Secret that the pod owns;
        ``"env"`` in the pod's environment in plain text, if Airflow may not create Secrets
    :param start_timeout: the longest time until the pod starts and, if set, until the job's first report.
        Defaults to ``startup_timeout_seconds``, for the pod alone
    :param stop_grace: defaults to ``termination_grace_period``, else 10 seconds
    :param do_xcom_push: push the reported results as the XCom ``return_value``, unless this is False. If it
        is True, the JSON (less than 4096 bytes) that the container writes to ``/airflow/xcom/return.json``
        is reported on its behalf when it exits with code 0
    :param durable: let the next try adopt the pod of a worker that died, unless this or
        ``reattach_on_restart`` is False
    :param deferrable: defaults to ``[operators] default_deferrable``
    :param defer_after: how long the worker waits before it defers. Defaults to ``[asyncaction] defer_after``
    """

    arguments: Any  # of the action; those of the container are args
    skip_on_exit_code: Any  # as in BaseActionOperator

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
        _check_arguments({**(kwargs.get("default_args") or {}), **kwargs}, job_secret)
        is_for_action = isinstance(arguments, Mapping) or service_name is not None
        self._expects_start = start_timeout is not None
        if start_timeout is None:
            start_timeout = kwargs.get("startup_timeout_seconds", 120)
        if stop_grace is None:
            stop_grace = kwargs.get("termination_grace_period") or 10
        action_arguments: Any = arguments if is_for_action else None
        super().__init__(
            arguments=action_arguments,
            service_name=service_name,
            start_timeout=start_timeout,
            stop_grace=stop_grace,
            do_xcom_push=do_xcom_push is not False,
            **kwargs,
        )
        self.args = args if args is not None or is_for_action else arguments
        self.job_resources = job_resources
        self.job_secret = job_secret
        self.defer_after = as_duration("defer_after", defer_after, may_be_zero=True)
        self.runner_name: str | None = None
        self.reads_return_file = do_xcom_push is True and self.options.completion is Completion.EXIT

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render the template fields, leaving the job's variables in ``job_resources``."""

        def render(manifest: Any) -> Any:
            self.job_resources = manifest
            super(KubeActionOperator, self).render_template_fields(context, jinja_env)
            return self.job_resources

        self.job_resources = render_around(self.job_resources, render)

    def make_runner(self, context: Mapping[str, Any]) -> Runner:
        """Return a runner that stops watching the pod after ``defer_after`` if this task can be deferred."""
        self._check_hook_url()
        can_defer = self.deferrable and not is_in_process()
        after = settings.load().defer_after if self.defer_after is None else self.defer_after
        return self._runner(context, watch_for=after if can_defer else None)

    def build_spec(self, runner: Runner) -> ActionSpec:
        """Return the action as it is registered with the server."""
        spec, start_timeout = super().build_spec(runner), None
        if self._expects_start and spec.start_timeout is not None:
            start_timeout = spec.start_timeout + _START_MARGIN
        return replace(spec, adoptable=True, takes_over=bool(self.durable), start_timeout=start_timeout)

    def run_attempt(
        self, hook: TaskHook, registration: Registration, runner: Runner, context: Any, *, after_line: int = 0
    ) -> Any:
        """Run the job. The runner stores the task key beside the pod, for the trigger."""
        if isinstance(runner, KubeRunner):
            runner.task_key = registration.credentials.secret_key
            registration = replace(registration, info=replace(registration.info, hook_url=remote_hook_url()))
        return super().run_attempt(hook, registration, runner, context, after_line=after_line)

    def defer_attempt(
        self, hook: TaskHook, registration: Registration, runner: Runner, context: Any, *, after_line: int
    ) -> NoReturn:
        """Defer the task: a trigger watches the pod from now on, and the server completes the task."""
        if not isinstance(runner, KubeRunner):
            raise TypeError(f"{type(runner).__name__} does not run a pod")
        deferral = Deferral(
            needs_worker=self.needs_worker(),
            pushes_results=self.do_xcom_push,
        )
        ActionLink().push(context)
        hook.defer(registration.credentials, deferral)
        action_id = registration.info.job_id
        position = runner.position.to_json()
        trigger = PodActionTrigger(
            action_id=action_id,
            ti_id=str(context["ti"].id),
            pod={**runner.pod, "init_containers": runner.pending_init_logs},
            container=self.base_container_name,
            cluster=self.cluster_arguments(),
            log=position,
            after_line=after_line,
            get_logs=self.get_logs,
            stop_grace_seconds=self.stop_grace.total_seconds(),
            start_by_ms=_unix_ms(runner.start_by),
            on_finish=self.on_finish_action.value,
            keep_on_kill=self.on_kill_action.value == "keep_pod",
            skip_on_exit_code=list(self.skip_on_exit_code),
        )
        self.log.info("Deferring the task: a trigger watches the pod")
        self.defer(
            trigger=trigger,
            method_name="resume",
            kwargs={"action_id": action_id, "log": position, "after_line": after_line},
            timeout=time_left(self.execution_timeout, context),
        )

    def resume(self, context: Any, action_id: str, log: list[Any], after_line: int, event: Any = None) -> Any:
        """Resume the task: return the action's results or raise its error, or watch its job again."""
        if isinstance(event, Mapping) and "reason" in event:
            self.log.warning("The trigger returned the pod to a worker: %s", event["reason"])
        return self._resume(context, action_id, position=LogPosition.from_json(log), after_line=after_line)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Resume after a deferral, even if it failed: the job is still running.

        It is stopped if ``execution_timeout`` has expired. Otherwise the worker watches it instead.
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

    def cluster_arguments(self) -> dict[str, Any]:
        """Return the arguments that name the cluster."""
        return {
            "conn_id": self.kubernetes_conn_id,
            "in_cluster": self.in_cluster,
            "cluster_context": self.cluster_context,
            "config_file": self.config_file,
        }

    def pod_options(self, *, watch_for: timedelta | None = None) -> PodOptions:
        """Return the options of the runner.

        :param watch_for: how long it watches the pod; ``None``: to its end
        """
        return PodOptions(
            container=self.base_container_name,
            stop_grace=self.stop_grace,
            start_timeout=self.options.start_timeout,
            watch_for=watch_for,
            secret_in_env=self.job_secret == _IN_ENV,
            get_logs=self.get_logs,
            on_finish=self.on_finish_action.value,
            keep_on_kill=self.on_kill_action.value == "keep_pod",
            init_logs=_parse_init_logs(self.init_container_logs),
        )

    def _runner(
        self,
        context: Mapping[str, Any],
        *,
        watch_for: timedelta | None = None,
        position: LogPosition | None = None,
    ) -> KubeRunner:
        self.name = self._set_name(self.name)

        def make_pod(info: JobInfo) -> k8s.V1Pod:
            if self.job_resources is not None:
                self.full_pod_spec = parse_manifest(self.job_resources, self._variables(info))
            return self.build_pod_request_obj(context)

        return_file = ReturnFile(
            self.base_container_name,
            lambda info, results: TaskHook(task_url()).report_results(info, results),
        )
        return KubeRunner(
            connect_to_cluster(lambda: self.client, self.cluster_arguments()),
            make_pod,
            task_labels=self._get_ti_pod_labels(cast("Context", context), include_try_number=False),
            options=self.pod_options(watch_for=watch_for),
            write_line=lambda line: write_pod_line(self.log, line),
            position=position or LogPosition(),
            on_pod=lambda pod: self._push_pod(context, pod),
            return_file=return_file,
        )

    def _check_hook_url(self) -> None:
        options = self.options
        # A template may set hostNetwork, too.
        templates = (self.job_resources, self.full_pod_spec, self.pod_template_file, self.pod_template_dict)
        if not self.hostnetwork:  # otherwise it may be right on a cluster of one node
            check_hook_url(
                remote_hook_url(),
                is_in_process=is_in_process(),
                must_report=not any(templates)
                and (
                    options.require_report
                    or options.completion is Completion.REPORT
                    or options.heartbeat_timeout is not None
                    or self._expects_start
                ),
                log=self.log,
            )

    def _push_pod(self, context: Mapping[str, Any], pod: Mapping[str, str]) -> None:
        """Push the XComs that KubernetesPodOperator pushes, at the same time."""
        context["ti"].xcom_push(key="pod_name", value=pod["name"])
        context["ti"].xcom_push(key="pod_namespace", value=pod["namespace"])

    def _variables(self, info: JobInfo) -> dict[str, str]:
        """Return the values of the variables in ``job_resources``."""
        variables = {ENV + name: value for name, value in drop_airflow_variables(os.environ).items()}
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
        hook = TaskHook(task_url(), hook_url=hook_url())
        registration = register(hook, context, self.build_spec(runner), resumes=action_id)
        credentials = registration.credentials
        view = (
            hook.read(credentials, patience=PATIENCE)
            if stop is None
            else hook.send_message(credentials, Stop(stop))
        )
        if view.is_done and view.has_exit:  # the trigger has read the log, and cleaned up
            return self.finish(hook, registration, runner, view, context)
        return self.run_attempt(hook, registration, runner, context, after_line=after_line)

    def needs_worker(self) -> NeedsWorker:
        """Return when a worker must complete the task after its job succeeded."""
        if needs_worker_after_success(self.airflow_task):
            return NeedsWorker.ALWAYS
        return NeedsWorker.FOR_LOGS if self.get_logs else NeedsWorker.ON_FAILURE


def _parse_init_logs(requested: Any) -> list[str] | bool:
    """Return ``init_container_logs`` for the runner: names, or whether all are requested."""
    if requested is None or isinstance(requested, bool):
        return bool(requested)
    return [requested] if isinstance(requested, str) else list(requested)


def _check_arguments(arguments: Mapping[str, Any], job_secret: str) -> None:
    """Check arguments that do not depend on others.

    :raises ValueError: some are invalid; the message names them all
    """
    wrong = [f"KubeActionOperator does not support {each}" for each in find_unsupported(arguments)]
    if job_secret not in (_IN_SECRET, _IN_ENV):
        wrong.append(f"job_secret is {job_secret!r}: it must be {_IN_SECRET!r} or {_IN_ENV!r}")
    if wrong:
        raise ValueError("\n".join(wrong))


def _unix_ms(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
