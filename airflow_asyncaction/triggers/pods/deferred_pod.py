# SPDX-License-Identifier: Apache-2.0
"""Deferred pod: waits for the end of a deferred task's pod, reports it and cleans up, or kills the pod."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_asyncaction.exceptions import ServerError, Superseded
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.protocol.actions import State, StopReason
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Launched, Stop
from airflow_asyncaction.protocol.runner_messages import RunnerMessage
from airflow_asyncaction.protocol.tasks import TaskCredentials, TaskView
from airflow_asyncaction.runners.pods.api_requests import ClusterError, ClusterRefused
from airflow_asyncaction.runners.pods.exit_status import Pod, should_keep_pod
from airflow_asyncaction.runners.pods.lifecycle import PodLifecycle
from airflow_asyncaction.runners.pods.log_selection import LogOptions
from airflow_asyncaction.runners.pods.return_file import (
    explain_refused_results,
    read_return_file,
)
from airflow_asyncaction.runners.pods.spec import PodSecrets
from airflow_asyncaction.runners.pods.startup import (
    add_events,
    note_unreadable_events,
)
from airflow_asyncaction.runners.skip_codes import mark_skip
from airflow_asyncaction.runners.task_log import ReportLog
from airflow_asyncaction.triggers.hook_pool import TaskHookPool
from airflow_asyncaction.triggers.pods.api import read_pod_secrets, retry_requests
from airflow_asyncaction.triggers.pods.container_logs import DeferredLogs, LiveLogLimiter
from airflow_asyncaction.triggers.pods.watch import NamespaceWatch

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

T = TypeVar("T")

_NO_PATIENCE = timedelta(0)
_CHECK_DELETED_SECONDS = 10.0
_CHECK_STARTING_SECONDS = 75.0
_ANSWER_SECONDS = 15.0
_LONGEST_STOP_SECONDS = 20.0  # Airflow gives on_kill 30 s


class WorkerRequired(Exception):
    """The triggerer cannot follow this pod to its end, so a worker must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredPodOptions:
    """Arguments of a trigger that describe its pod.

    :param start_by: deadline for the container's start
    :param on_finish: what to do with the pod at its end: an ``on_finish_action`` of KubernetesPodOperator
    :param keep_on_kill: do not delete the pod when the task is killed
    :param skip_on_exit_code: exit codes that skip the task
    """

    action_id: str
    ti_id: str
    name: str
    uid: str
    logs: LogOptions
    after_line: int
    stop_grace: timedelta
    start_by: datetime | None
    on_finish: str
    keep_on_kill: bool
    skip_on_exit_code: tuple[int, ...]


class DeferredPod:
    """Follows one pod from the task's deferral to the pod's end.

    Purpose: a pod that does not change costs the triggerer almost nothing. The watch calls
    :meth:`pod_changed`.

    How it works: :meth:`follow` waits until the container has started, follows its log if a slot is free, and
    reports the exit once the log has been read to its end.

    What it does not do: complete the task. The server does so once it knows the exit.
    """

    def __init__(
        self,
        options: DeferredPodOptions,
        watch: NamespaceWatch,
        hooks: TaskHookPool,
        limiter: LiveLogLimiter,
        log: Logger,
    ) -> None:
        self._options = options
        self._watch = watch
        self._api = watch.api
        self._hooks = hooks
        self._limiter = limiter
        self._log = log
        self._lifecycle = PodLifecycle(options.logs.container, start_by=options.start_by, has_secret=True)
        self._changed = asyncio.Event()
        self._exit: Exit | None = None
        self._refusal: str | None = None
        self._secrets: PodSecrets | None = None
        self._logs = DeferredLogs(self._open_log, options.logs, self._lifecycle, log)
        self._is_launch_reported = bool(options.logs.position.stamp)  # the worker has read the log
        self._is_exit_reported = False
        self._is_cleaned_up = False

    def pod_changed(self, event: str, pod: Pod | None) -> None:
        """Handle a change that the watch has reported."""
        self._exit = self._lifecycle.observe(event, pod, datetime.now(UTC))
        if self._exit is not None:
            self._logs.end_follow()
        self._changed.set()

    def watch_refused(self, reason: str) -> None:
        """Give up: the cluster refuses the watch."""
        self._refusal = reason
        self._changed.set()

    async def follow(self) -> None:
        """Wait for the end of the pod, report it to the server, and clean up.

        :raises WorkerRequired: a worker must do it
        :raises Superseded: another process of the task does it
        """
        try:
            with self._watch.observed(self._options.uid, self):
                task = await self._read_credentials()
                if not await retry_requests(
                    lambda: self._watch.has_pod(self._options.name, self._options.uid)
                ):
                    self.pod_changed("DELETED", None)
                exit_ = await self._wait_for_exit()
            exit_ = await self._explain(exit_)
            if self._lifecycle.is_stuck:  # it might still start
                await self._clean_up(succeeded=False)
            exit_ = mark_skip(await self._report_results(exit_), self._options.skip_on_exit_code)
            await self._copy_reports(task)
            view = await self._call(lambda hook: hook.send_message(task, exit_, patience=_NO_PATIENCE))
        except ClusterRefused as refused:
            raise WorkerRequired(str(refused)) from refused
        except Superseded:
            raise
        except ServerError as error:
            raise WorkerRequired(str(error)) from error
        self._is_exit_reported = True
        if view.is_skipped:
            self._log.info("%s", view.error_message)
        elif view.state not in (State.SUCCESS, State.RUNNING):  # a worker raises the error later
            self._log.error("%s: %s", view.error_name, view.error_message)
        await self._clean_up(succeeded=exit_.is_clean)

    async def kill(self) -> None:
        """Clean up after a task that is no longer deferred, whatever ended the deferral.

        If the server completed the task, the pod has ended and is cleaned up. If the server resumed the task
        on a worker, the worker handles the pod. Otherwise a user killed the task: the job is asked to stop,
        and its pod is deleted.
        """
        if self._is_exit_reported and self._is_cleaned_up:
            return
        try:
            await self._kill_or_clean_up(await self._read_credentials())
        except WorkerRequired:
            return  # the pod is gone, or its Secret cannot be read
        except Superseded:
            self._log.info("Another process of this task watches the pod")

    async def _kill_or_clean_up(self, task: TaskCredentials) -> None:
        try:
            view = await self._call_briefly(lambda hook: hook.read(task, patience=_NO_PATIENCE))
        except Superseded:
            raise
        except ServerError as error:  # the server no longer knows the action, so nothing else cleans up
            self._log.warning("%s", error)
            await self._delete_killed()
            return
        if view is None:
            self._log.warning(
                "The API server does not respond. A later sweep of the namespace will clean up the pod"
            )
        elif view.has_exit:
            self._exit = self._exit or parse_exit(view)
            await self._logs.finish(self._exit)
            await self._clean_up(succeeded=parse_exit(view).is_clean)
        elif view.is_deferred:
            await self._kill(task, is_over=view.is_done)

    async def _kill(self, task: TaskCredentials, *, is_over: bool) -> None:
        self._lifecycle.expect_deletion()
        stop, is_stop_reported = Stop(StopReason.KILLED), is_over
        with self._watch.observed(self._options.uid, self):
            if not is_over:
                is_stop_reported = await self._report(task, stop)
                grace_seconds = self._options.stop_grace.total_seconds()
                await self._wait_at_most(min(grace_seconds, _LONGEST_STOP_SECONDS))
            if self._exit is not None:
                await self._logs.finish(self._exit)
                if not is_stop_reported:
                    await self._report(task, stop)  # otherwise the exit would seem to be the job's own
                await self._report(task, self._exit)
        await self._delete_killed()
        if self._exit is None:
            await self._report(task, Abandon())

    async def _delete_killed(self) -> None:
        """Delete the pod of a killed task, unless it must be kept."""
        if not self._options.keep_on_kill:
            self._log.info("Deleting the pod")
            await self._delete_pod(grace_seconds=int(self._options.stop_grace.total_seconds()))
            await self._delete_secret()

    async def _wait_for_exit(self) -> Exit:
        try:
            while self._exit is None:
                self._changed.clear()
                if self._refusal is not None:
                    raise WorkerRequired(self._refusal)
                if self._lifecycle.has_started and not self._is_launch_reported:
                    await self._report_launch()
                    continue
                if self._logs.can_be_followed and self._limiter.acquire(self._changed.set):
                    await self._follow_log()
                    continue
                await self._wait_for_change()
            return self._exit
        finally:
            self._limiter.stop_waiting(self._changed.set)

    async def _report_launch(self) -> None:
        """Report that the container has started: the worker may not have reported it."""
        task, options = await self._read_credentials(), self._options
        node = (self._lifecycle.pod or {}).get("spec", {}).get("nodeName")
        job = {"pod": options.name, "namespace": self._api.target.namespace}
        launched = Launched({**job, "node": node, "uid": options.uid})
        await self._call(lambda hook: hook.send_message(task, launched, patience=_NO_PATIENCE))
        self._is_launch_reported = True
        await self._logs.copy_init_logs()

    async def _follow_log(self) -> None:
        try:
            await self._logs.follow(lambda: self._exit is not None)
        finally:
            self._limiter.release()

    async def _wait_for_change(self) -> None:
        """Wait until the pod changes, or a deadline of its lifecycle passes."""
        try:
            async with asyncio.timeout(self._seconds_to_deadline()):
                await self._changed.wait()
        except TimeoutError:
            self.pod_changed("", None)

    def _seconds_to_deadline(self) -> float | None:
        pod = self._lifecycle.pod or {}
        if pod.get("metadata", {}).get("deletionTimestamp"):
            return _CHECK_DELETED_SECONDS
        if self._lifecycle.has_started:
            return None
        seconds = [_CHECK_STARTING_SECONDS] if pod.get("status", {}).get("containerStatuses") else []
        if self._options.start_by is not None:
            remaining = (self._options.start_by - datetime.now(UTC)).total_seconds()
            seconds.append(max(remaining, 0.0) + 0.1)
        return min(seconds, default=None)

    async def _explain(self, exit_: Exit) -> Exit:
        """Copy the remaining logs, and return the exit with its events and the last lines of output."""
        if self._lifecycle.needs_events:
            exit_ = await self._add_events(exit_)
        await self._logs.finish(self._exit)
        if self._lifecycle.warning is not None:
            self._log.warning("%s", self._lifecycle.warning)
        return self._lifecycle.add_tail(exit_, self._logs.tail)

    async def _add_events(self, exit_: Exit) -> Exit:
        try:
            answer = await self._api.send(self._api.requests.list_events(self._options.uid))
            return add_events(exit_, answer.get("items") or (), own_secret=self._options.name)
        except ClusterError as error:
            return note_unreadable_events(exit_, str(error))

    async def _report_results(self, exit_: Exit) -> Exit:
        """Report the results that the container left in a file, if any; return the exit."""
        exit_, results = read_return_file(exit_, self._lifecycle.pod or {}, self._options.logs.container)
        if results is None or self._secrets is None:
            return exit_
        job = TaskCredentials(JobId(self._options.action_id), self._secrets.job)
        try:
            await self._call(lambda hook: hook.report_results(job, results, patience=_NO_PATIENCE))
        except ServerError as error:
            return explain_refused_results(exit_, error)
        return exit_

    async def _copy_reports(self, task: TaskCredentials) -> None:
        """Write what the job has reported since a worker last read the action."""
        reports = ReportLog(self._log, copies_logs=True, after_line=self._options.after_line)
        while True:
            after_line = reports.last_line
            view = await self._call(
                lambda hook, after_line=after_line: hook.read(  # type: ignore[misc]
                    task, after_line=after_line, patience=_NO_PATIENCE
                )
            )
            reports.write(view)
            if not view.has_more_logs:
                return

    async def _clean_up(self, *, succeeded: bool) -> None:
        """Delete the pod, unless it must be kept, and its Secret."""
        if self._is_cleaned_up:
            return
        try:
            if self._lifecycle.is_stuck:  # with a grace period, a kubelet may take a minute to delete it
                await self._delete_pod(grace_seconds=0)
            elif not should_keep_pod(self._options.on_finish, succeeded=succeeded):
                await self._delete_pod()
        except ClusterRefused as refused:
            self._log.warning("Pod %s could not be deleted: %s", self._options.name, refused)
        await self._delete_secret()
        self._is_cleaned_up = True

    async def _delete_secret(self) -> None:
        """Delete the job's Secret. The cluster deletes it with the pod, but that may take minutes."""
        with suppress(ClusterError):
            await self._api.send(self._api.requests.delete_secret(self._options.name))

    async def _delete_pod(self, *, grace_seconds: int | None = None) -> None:
        name, uid = self._options.name, self._options.uid
        request = self._api.requests.delete_pod(name, uid, grace_seconds=grace_seconds)
        await retry_requests(lambda: self._api.send(request))

    async def _wait_at_most(self, seconds: float) -> None:
        """Wait for the exit, for a limited time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._exit is None:
                    self._changed.clear()
                    await self._changed.wait()

    async def _read_credentials(self) -> TaskCredentials:
        """Return the task's credentials. Read them early: they are deleted together with the pod."""
        if self._secrets is None:
            try:
                secrets = await retry_requests(lambda: read_pod_secrets(self._api, self._options.name))
            except ClusterRefused as refused:
                raise WorkerRequired(str(refused)) from refused
            if secrets is None:
                raise WorkerRequired("The pod no longer exists, and the task's key was deleted with it")
            self._secrets = self._logs.secrets = secrets
        return TaskCredentials(JobId(self._options.action_id), self._secrets.task)

    def _open_log(self, **options: Any) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._api.open_stream(self._api.requests.read_log(self._options.name, **options))

    async def _call(self, send: Callable[[TaskHook], T]) -> T:
        return await self._hooks.call_until_answered(send, ti_id=self._options.ti_id)

    async def _call_briefly(self, send: Callable[[TaskHook], T]) -> T | None:
        """Return the server's response; ``None`` if it does not respond within 15 seconds.

        :raises Superseded: another process of the task has taken over
        :raises ServerError: the server refused the request
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._call(send)
        return None

    async def _report(self, task: TaskCredentials, message: RunnerMessage) -> bool:
        """Send a message to the server; return whether it was accepted."""
        try:
            view = await self._call_briefly(
                lambda hook: hook.send_message(task, message, patience=_NO_PATIENCE)
            )
        except Superseded:
            raise
        except ServerError as error:
            self._log.warning("%s", error)
            return False
        return view is not None


def parse_exit(view: TaskView) -> Exit:
    """Return the exit that was reported to the server."""
    fields = json.loads(view.exit or "{}")
    return Exit(
        code=fields.get("code"),
        signal=fields.get("signal"),
        reason=fields.get("reason"),
        message=fields.get("message"),
    )
