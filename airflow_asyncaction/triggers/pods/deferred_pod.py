# SPDX-License-Identifier: Apache-2.0
"""The pod of a deferred task: waits for its end, tells the server, and clears up; or ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from airflow_asyncaction.exceptions import ServerError, Superseded
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.protocol.actions import State, StopReason
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Abandon, Exit, Launched, Stop
from airflow_asyncaction.protocol.tasks import TaskCredentials, TaskView, Word
from airflow_asyncaction.runners.base import mark_skip
from airflow_asyncaction.runners.pods.exit_status import Pod, is_kept
from airflow_asyncaction.runners.pods.lifecycle import PodStory
from airflow_asyncaction.runners.pods.return_file import refused, returned
from airflow_asyncaction.runners.pods.spec import PodSecrets
from airflow_asyncaction.runners.pods.startup import with_events, without_events
from airflow_asyncaction.runners.task_log import ReportLog
from airflow_asyncaction.triggers.api_server import Server
from airflow_asyncaction.triggers.pods.cluster import ClusterError, ClusterRefused, insist
from airflow_asyncaction.triggers.pods.log_slots import LogSlots
from airflow_asyncaction.triggers.pods.logs import PodLogs, WantedLogs
from airflow_asyncaction.triggers.pods.pod_secrets import read_secrets
from airflow_asyncaction.triggers.pods.watch import PodWatch

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

T = TypeVar("T")

_NO_PATIENCE = timedelta(0)
_LOOK_AT_DELETED_SECONDS = 10.0
_LOOK_AT_STARTING_SECONDS = 75.0
_ANSWER_SECONDS = 15.0
_LONGEST_STOP_SECONDS = 20.0  # Airflow gives on_kill 30 s


class CannotWatch(Exception):
    """The triggerer cannot see this pod through: a worker must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTerms:
    """What a trigger knows of its pod.

    :param start_by: when the container must be up
    :param on_finish: what becomes of the pod at its end, as KubernetesPodOperator says it
    :param keep_on_kill: whether it is not deleted when the task is killed
    :param skip_on_exit_code: exit codes by which the job skips itself
    """

    action_id: str
    ti_id: str
    name: str
    uid: str
    logs: WantedLogs
    after_line: int
    stop_grace: timedelta
    start_by: datetime | None
    on_finish: str
    keep_on_kill: bool
    skip_on_exit_code: tuple[int, ...]


class DeferredPod:
    """One pod, from the task's deferral to its end.

    Purpose: nothing runs for it while nothing happens: the watch calls :meth:`pod_changed`.

    How it works: :meth:`see_through` waits until the container is up, follows its log if a slot is free, and
    tells the server the exit once the log was read to its end: the server then completes the task.

    What it does not do: complete the task.
    """

    def __init__(
        self, terms: PodTerms, watch: PodWatch, server: Server, slots: LogSlots, log: Logger
    ) -> None:
        self._terms = terms
        self._watch = watch
        self._server = server
        self._slots = slots
        self._log = log
        self._story = PodStory(terms.logs.container, start_by=terms.start_by, secret_is_there=True)
        self._changed = asyncio.Event()
        self._exit: Exit | None = None
        self._refused: str | None = None
        self._secrets: PodSecrets | None = None
        self._logs = PodLogs(watch.cluster, terms.logs, self._story, log)
        self._is_launched = bool(terms.logs.position.stamp)  # then the worker has seen it, and told
        self._is_told = False
        self._is_cleared = False

    def pod_changed(self, event: str, pod: Pod | None) -> None:
        """Take in what the watch saw."""
        self._exit = self._story.look(event, pod, datetime.now(UTC))
        if self._exit is not None:
            self._logs.container_ended()
        self._changed.set()

    def watch_refused(self, reason: str) -> None:
        """Give up: the cluster lets nobody watch."""
        self._refused = reason
        self._changed.set()

    async def see_through(self) -> None:
        """Wait for the end of the pod, tell it to the server, and clear up.

        :raises CannotWatch: a worker must do it
        :raises Superseded: another process of the task does it
        """
        try:
            with self._watch.observed(self._terms.uid, self):
                task = await self._read_credentials()
                if not await insist(lambda: self._watch.is_there(self._terms.name, self._terms.uid)):
                    self.pod_changed("DELETED", None)
                exit_ = await self._until_end()
            exit_ = await self._told_whole(exit_)
            if self._story.is_stuck:  # it might start yet
                await self._clear_up(succeeded=False)
            exit_ = mark_skip(await self._with_results(exit_), self._terms.skip_on_exit_code)
            await self._show_reported(task)
            view = await self._ask_for_ever(lambda hook: hook.tell(task, exit_, patience=_NO_PATIENCE))
        except ClusterRefused as refused:
            raise CannotWatch(str(refused)) from refused
        except Superseded:
            raise
        except ServerError as error:
            raise CannotWatch(str(error)) from error
        self._is_told = True
        if view.is_skipped:
            self._log.info("%s", view.error_message)
        elif view.state not in (State.SUCCESS, State.RUNNING):  # a worker raises it later
            self._log.error("%s: %s", view.error_name, view.error_message)
        await self._clear_up(succeeded=exit_.is_clean)

    async def kill(self) -> None:
        """Do what is left to do for a task that is not deferred any more, whoever ended that.

        If the server did, since the exit is known, that is to clear up. If it has resumed the task on a
        worker, that looks after the pod. Else somebody killed the task: the job is asked to stop, and its
        pod deleted.
        """
        if self._is_told and self._is_cleared:
            return
        try:
            await self._kill_or_clear_up(await self._read_credentials())
        except CannotWatch:
            return  # the pod is gone
        except Superseded:
            self._log.info("Another process of this task looks after the pod")

    async def _kill_or_clear_up(self, task: TaskCredentials) -> None:
        try:
            view = await self._ask_for_a_while(lambda hook: hook.read(task, patience=_NO_PATIENCE))
        except Superseded:
            raise
        except ServerError as error:  # it knows the action no more: neither will the sweep
            self._log.warning("%s; the pod is deleted", error)
            await self._delete_killed()
            return
        if view is None:
            self._log.warning("The API server does not answer: the pod is left to the sweep")
        elif view.exit_seen:
            self._exit = self._exit or exit_of(view)
            await self._read_rest()
            await self._clear_up(succeeded=exit_of(view).is_clean)
        elif view.is_deferred:
            await self._kill(task, is_over=view.is_done)

    async def _kill(self, task: TaskCredentials, *, is_over: bool) -> None:
        self._story.deleted_by_us()
        stop, is_stop_told = Stop(StopReason.KILLED), is_over
        with self._watch.observed(self._terms.uid, self):
            if not is_over:
                is_stop_told = await self._tell_soon(task, stop)
                await self._ended_within(min(self._terms.stop_grace.total_seconds(), _LONGEST_STOP_SECONDS))
            if self._exit is not None:
                await self._read_rest()
                if not is_stop_told:
                    await self._tell_soon(task, stop)  # or the exit seems to be the job's own
                await self._tell_soon(task, self._exit)
        await self._delete_killed()
        if self._exit is None:
            await self._tell_soon(task, Abandon())

    async def _delete_killed(self) -> None:
        """Delete the pod of a task that was killed, unless it is to be kept."""
        if not self._terms.keep_on_kill:
            await self._delete_pod(grace_seconds=int(self._terms.stop_grace.total_seconds()))
            await self._delete_secret()

    async def _until_end(self) -> Exit:
        try:
            while self._exit is None:
                self._changed.clear()
                if self._refused is not None:
                    raise CannotWatch(self._refused)
                if self._story.has_started and not self._is_launched:
                    await self._tell_launched()
                    continue
                if self._logs.may_be_followed and self._slots.take(self._changed.set):
                    await self._follow()
                    continue
                await self._next_change()
            return self._exit
        finally:
            self._slots.leave(self._changed.set)

    async def _tell_launched(self) -> None:
        """Tell that the container is up, which no worker may have seen."""
        task, terms = await self._read_credentials(), self._terms
        node = (self._story.pod or {}).get("spec", {}).get("nodeName")
        job = {"pod": terms.name, "namespace": self._watch.cluster.place.namespace}
        launched = Launched({**job, "node": node, "uid": terms.uid})
        await self._ask_for_ever(lambda hook: hook.tell(task, launched, patience=_NO_PATIENCE))
        self._is_launched = True
        await self._logs.copy_init_containers()

    async def _follow(self) -> None:
        try:
            await self._logs.follow(lambda: self._exit is not None)
        finally:
            self._slots.give_back()

    async def _next_change(self) -> None:
        """Wait until something happens, or a clock runs out that the story knows."""
        try:
            async with asyncio.timeout(self._seconds_to_look()):
                await self._changed.wait()
        except TimeoutError:
            self.pod_changed("", None)

    def _seconds_to_look(self) -> float | None:
        pod = self._story.pod or {}
        if pod.get("metadata", {}).get("deletionTimestamp"):
            return _LOOK_AT_DELETED_SECONDS
        if self._story.has_started:
            return None
        seconds = [_LOOK_AT_STARTING_SECONDS] if pod.get("status", {}).get("containerStatuses") else []
        if self._terms.start_by is not None:
            left = (self._terms.start_by - datetime.now(UTC)).total_seconds()
            seconds.append(max(left, 0.0) + 0.1)
        return min(seconds, default=None)

    async def _told_whole(self, ended: Exit) -> Exit:
        """Return an end with all that explains it; copy what is left of the logs."""
        if self._story.wants_events:
            ended = await self._with_events(ended)
        await self._read_rest()
        if self._story.warning is not None:
            self._log.warning("%s", self._story.warning)
        return self._story.with_tail(ended, self._logs.tail)

    async def _with_events(self, late: Exit) -> Exit:
        try:
            events = await self._watch.cluster.events(self._terms.uid)
            return with_events(late, events, own_secret=self._terms.name)
        except ClusterError as error:
            return without_events(late, str(error))

    async def _with_results(self, exit_: Exit) -> Exit:
        """Report the results that the container left in a file, if it did."""
        exit_, results = returned(exit_, self._story.pod or {}, self._terms.logs.container)
        if results is None or self._secrets is None:
            return exit_
        job = TaskCredentials(JobId(self._terms.action_id), self._secrets.job)
        try:
            await self._ask_for_ever(lambda hook: hook.report_results(job, results, patience=_NO_PATIENCE))
        except ServerError as error:
            return refused(exit_, error)
        return exit_

    async def _read_rest(self) -> None:
        await self._logs.read_rest(self._exit)

    async def _show_reported(self, task: TaskCredentials) -> None:
        """Write what the job has reported since the worker looked last."""
        shown = ReportLog(self._log, copies_logs=True, after_line=self._terms.after_line)
        while True:
            after_line = shown.last_line
            view = await self._ask_for_ever(
                lambda hook, after_line=after_line: hook.read(  # type: ignore[misc]
                    task, after_line=after_line, patience=_NO_PATIENCE
                )
            )
            shown.write(view)
            if not view.has_more_logs:
                return

    async def _clear_up(self, *, succeeded: bool) -> None:
        if self._is_cleared:
            return
        terms = self._terms
        try:
            if self._story.is_stuck:  # a kubelet may take a minute for the grace of what never started
                await self._delete_pod(grace_seconds=0)
            elif not is_kept(terms.on_finish, succeeded=succeeded):
                await self._delete_pod()
        except ClusterRefused as refused:
            self._log.warning("The pod %s could not be deleted: %s", terms.name, refused)
        await self._delete_secret()
        self._is_cleared = True

    async def _delete_secret(self) -> None:
        """Delete the job's Secret: of a pod that is kept, or the cluster does it, but may take minutes."""
        with suppress(ClusterError):
            await self._watch.cluster.delete_secret(self._terms.name)

    async def _delete_pod(self, *, grace_seconds: int | None = None) -> None:
        terms, cluster = self._terms, self._watch.cluster
        await insist(lambda: cluster.delete_pod(terms.name, terms.uid, grace_seconds=grace_seconds))

    async def _ended_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while self._exit is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    async def _read_credentials(self) -> TaskCredentials:
        """Return what to sign with as the task: read early, since it is gone once the pod is."""
        terms, cluster = self._terms, self._watch.cluster
        if self._secrets is None:
            try:
                self._secrets = self._logs.secrets = await insist(lambda: read_secrets(cluster, terms.name))
            except ClusterRefused as refused:
                raise CannotWatch(str(refused)) from refused
            if self._secrets is None:
                raise CannotWatch("The pod is gone, and the task's key with it")
        return TaskCredentials(JobId(terms.action_id), self._secrets.task)

    async def _ask_for_ever(self, call: Callable[[TaskHook], T]) -> T:
        return await self._server.ask_for_ever(call, ti_id=self._terms.ti_id)

    async def _ask_for_a_while(self, call: Callable[[TaskHook], T]) -> T | None:
        """Return what the server answers; ``None`` if it does not answer for some seconds.

        :raises Superseded: another process of the task has taken over
        :raises ServerError: it refuses
        """
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._ask_for_ever(call)
        except TimeoutError:
            return None

    async def _tell_soon(self, task: TaskCredentials, word: Word) -> bool:
        try:
            view = await self._ask_for_a_while(lambda hook: hook.tell(task, word, patience=_NO_PATIENCE))
        except Superseded:
            raise
        except ServerError as error:
            self._log.warning("%s", error)
            return False
        return view is not None


def exit_of(view: TaskView) -> Exit:
    """Return the exit that the server was told."""
    fields = json.loads(view.exit or "{}")
    return Exit(
        code=fields.get("code"),
        signal=fields.get("signal"),
        reason=fields.get("reason"),
        message=fields.get("message"),
    )
