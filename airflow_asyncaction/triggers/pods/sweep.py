# SPDX-License-Identifier: Apache-2.0
"""Deletes pods whose task is over, or gone: whoever watched them has died."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.tasks import TaskCredentials, TaskView
from airflow_asyncaction.retrying import is_outage
from airflow_asyncaction.runners.pods.exit_status import (
    ACTION_LABEL,
    ENDED_PHASES,
    ON_FINISH_LABEL,
    Pod,
    is_kept,
)
from airflow_asyncaction.runners.pods.orphaned_pods import JobPod
from airflow_asyncaction.triggers.api_server import Server
from airflow_asyncaction.triggers.pods.cluster import ClusterError
from airflow_asyncaction.triggers.pods.deferred_pod import exit_of
from airflow_asyncaction.triggers.pods.pod_secrets import read_secrets
from airflow_asyncaction.triggers.pods.watch import PodWatch

log = logging.getLogger(__name__)

_NO_PATIENCE = timedelta(0)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often the sweep does what.

    :param alone_seconds: how long nobody here must have waited for a pod before it is looked at
    :param again_seconds: how long after that it is looked at again
    :param between_seconds: between two pods
    :param round_seconds: between two rounds
    """

    alone_seconds: float = 120.0
    again_seconds: float = 600.0
    between_seconds: float = 2.0
    round_seconds: float = 30.0


class Sweep:
    """Cleans up the pods of a watch that no trigger in this process waits for.

    How it works: the server ends the action of such a pod if no task watches it. The pod of an action that
    has ended is deleted, unless it is to be kept. Pods without a task key, and pods that the server does not
    know because they belong to another deployment, are ignored.
    """

    def __init__(self, watch: PodWatch, server: Server, pace: Pace = Pace()) -> None:
        self._watch = watch
        self._server = server
        self._pace = pace
        self._look_at: dict[str, float] = {}  # by uid

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(self._pace.round_seconds)
            for uid, pod in self._due(time.monotonic()):
                try:
                    await self._look(uid, pod)
                except (ClusterError, ServerError) as error:
                    log.debug("Pod %s is left alone for now: %s", pod.name, error)
                    if isinstance(error, ServerError) and is_outage(error):
                        break
                except Exception:  # it is nobody's task: nobody else would go on
                    log.exception("Pod %s could not be looked at", pod.name)
                await asyncio.sleep(self._pace.between_seconds)

    def _due(self, now: float) -> Iterator[tuple[str, JobPod]]:
        pods = {uid: pod for uid, pod in self._watch.pods.items() if not self._watch.is_observed(uid)}
        first = now + self._pace.alone_seconds
        self._look_at = {uid: self._look_at.get(uid, first) for uid in pods}
        for uid, pod in pods.items():
            job_pod = _job_pod(pod)
            if self._look_at[uid] <= now and job_pod.is_left and not pod["metadata"].get("deletionTimestamp"):
                self._look_at[uid] = now + self._pace.again_seconds
                if uid in self._watch.pods and not self._watch.is_observed(uid):
                    yield uid, job_pod

    async def _look(self, uid: str, pod: JobPod) -> None:
        secrets = await read_secrets(self._watch.cluster, pod.name)
        if secrets is None:
            return
        task = TaskCredentials(pod.action_id, secrets.task)
        view = await self._server.ask(lambda hook: hook.read(task, patience=_NO_PATIENCE))
        if not view.is_done:
            view = await self._server.ask(lambda hook: hook.reap(task, patience=_NO_PATIENCE))
        elif _may_go_on(view, pod):
            return
        if view.is_done:
            log.warning("Pod %s is deleted: its task is over, or gone", pod.name)
            await self._watch.cluster.delete_pod(pod.name, uid)


def _job_pod(pod: Pod) -> JobPod:
    metadata, labels = pod["metadata"], pod["metadata"]["labels"]
    return JobPod(
        action_id=JobId(labels[ACTION_LABEL]),
        name=metadata["name"],
        namespace=metadata["namespace"],
        phase=pod["status"].get("phase", ""),
        on_finish=labels.get(ON_FINISH_LABEL, "delete_pod"),
    )


def _may_go_on(view: TaskView, pod: JobPod) -> bool:
    """Tell whether a pod of an action that is over may run on.

    What was only to be submitted may, until it ends by itself (``completion="report"``); so may the sidecars
    of a pod that was kept by who saw the exit of its container.
    """
    if pod.phase in ENDED_PHASES:
        return False
    if view.exit_seen:
        return is_kept(pod.on_finish, succeeded=exit_of(view).is_clean)
    return view.state is State.SUCCESS
