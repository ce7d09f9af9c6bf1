# SPDX-License-Identifier: Apache-2.0
"""Pod sweep: deletes orphaned pods, whose task has ended or no longer exists."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.tasks import TaskCredentials, TaskView
from airflow_asyncaction.retrying import is_outage
from airflow_asyncaction.runners.pods.api_requests import ClusterError
from airflow_asyncaction.runners.pods.exit_status import (
    ENDED_PHASES,
    should_keep_pod,
)
from airflow_asyncaction.runners.pods.orphaned_pods import JobPod, parse_job_pod
from airflow_asyncaction.triggers.hook_pool import TaskHookPool
from airflow_asyncaction.triggers.pods.api import read_pod_secrets
from airflow_asyncaction.triggers.pods.deferred_pod import parse_exit
from airflow_asyncaction.triggers.pods.watch import NamespaceWatch

log = logging.getLogger(__name__)

_NO_PATIENCE = timedelta(0)


@dataclass(frozen=True, kw_only=True)
class SweepIntervals:
    """How often pods are checked, in seconds.

    :param unobserved_seconds: how long no trigger here must have followed a pod before its first check
    :param recheck_seconds: time between two checks of a pod
    :param pause_seconds: time between the checks of two pods
    :param round_seconds: time between two rounds
    """

    unobserved_seconds: float = 120.0
    recheck_seconds: float = 600.0
    pause_seconds: float = 2.0
    round_seconds: float = 30.0


class PodSweep:
    """Cleans up the pods of a watch that no trigger in this process follows.

    How it works: the server ends the action of such a pod if no task watches it. The pod of an action that
    has ended is deleted, unless it must be kept. Pods without a task key, and pods that the server does not
    know because they belong to another deployment, are ignored.
    """

    def __init__(
        self, watch: NamespaceWatch, hooks: TaskHookPool, intervals: SweepIntervals = SweepIntervals()
    ) -> None:
        self._watch = watch
        self._hooks = hooks
        self._intervals = intervals
        self._check_at: dict[str, float] = {}  # by uid

    async def run(self) -> None:
        """Clean up until cancelled."""
        while True:
            await asyncio.sleep(self._intervals.round_seconds)
            for uid, pod in self._select_due(time.monotonic()):
                try:
                    await self._check(uid, pod)
                except (ClusterError, ServerError) as error:
                    log.debug("Pod %s cannot be checked now, retrying: %s", pod.name, error)
                    if is_outage(error):
                        break
                except Exception:  # nothing would restart this asyncio task
                    log.exception("Pod %s could not be checked", pod.name)
                await asyncio.sleep(self._intervals.pause_seconds)

    def _select_due(self, now: float) -> Iterator[tuple[str, JobPod]]:
        pods = {uid: pod for uid, pod in self._watch.pods.items() if not self._watch.is_observed(uid)}
        first = now + self._intervals.unobserved_seconds
        self._check_at = {uid: self._check_at.get(uid, first) for uid in pods}
        for uid, pod in pods.items():
            job_pod = parse_job_pod(pod)
            is_terminating = bool(pod["metadata"].get("deletionTimestamp"))
            if self._check_at[uid] <= now and job_pod.should_be_deleted and not is_terminating:
                self._check_at[uid] = now + self._intervals.recheck_seconds
                if uid in self._watch.pods and not self._watch.is_observed(uid):
                    yield uid, job_pod

    async def _check(self, uid: str, pod: JobPod) -> None:
        api = self._watch.api
        secrets = await read_pod_secrets(api, pod.name)
        if secrets is None:
            return
        task = TaskCredentials(pod.action_id, secrets.task)
        view = await self._hooks.call(lambda hook: hook.read(task, patience=_NO_PATIENCE))
        if not view.is_done:
            view = await self._hooks.call(lambda hook: hook.reap(task, patience=_NO_PATIENCE))
        elif _may_keep_running(view, pod):
            return
        if view.is_done:
            log.warning("Deleting pod %s: its task has ended, or no longer exists", pod.name)
            await api.send(api.requests.delete_pod(pod.name, uid))


def _may_keep_running(view: TaskView, pod: JobPod) -> bool:
    """Return whether the pod of an action that has ended may keep running.

    Submitted work (``completion="report"``) may, until it ends by itself, and so may the sidecars of a pod
    that was kept when its container exited.
    """
    if pod.phase in ENDED_PHASES:
        return False
    if view.has_exit:
        return should_keep_pod(pod.on_finish, succeeded=parse_exit(view).is_clean)
    return view.state is State.SUCCESS
