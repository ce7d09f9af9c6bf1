# SPDX-License-Identifier: Apache-2.0
"""PodActionTrigger: waits for the pod of a deferred task."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Hashable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, Unpack

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_asyncaction import settings
from airflow_asyncaction.exceptions import Superseded
from airflow_asyncaction.protocol.reports import MAX_MESSAGE_CHARS, replace_unstorable
from airflow_asyncaction.runners.pods.log import LogPosition
from airflow_asyncaction.runners.pods.log_selection import LogOptions
from airflow_asyncaction.triggers.hook_pool import get_hook_pool
from airflow_asyncaction.triggers.on_kill import run_uncancelled
from airflow_asyncaction.triggers.pods.api import ClusterNamespace
from airflow_asyncaction.triggers.pods.container_logs import get_live_log_limiter
from airflow_asyncaction.triggers.pods.deferred_pod import DeferredPod, DeferredPodOptions, WorkerRequired
from airflow_asyncaction.triggers.pods.sweep import PodSweep
from airflow_asyncaction.triggers.pods.watch import get_watch

_COMPLETED_WITHIN_SECONDS = 120.0
_POD_KEYS = ("name", "namespace", "uid", "init_containers")


class PodEndOptions(TypedDict):
    """Options for the end of a pod: arguments of :class:`PodActionTrigger`."""

    on_finish: str
    """What to do with the pod at its end: an ``on_finish_action`` of KubernetesPodOperator."""
    keep_on_kill: bool
    """Do not delete the pod when the task is killed."""
    skip_on_exit_code: list[int]
    """Exit codes that skip the task."""


class PodActionTrigger(BaseEventTrigger):
    """Waits for the end of one pod, and reports it to the API server, which completes the task.

    Purpose: thousands of deferred tasks cost a triggerer one watch per cluster and namespace.

    How it works: a :class:`DeferredPod` does the work. The shared stream is the watch, which calls each
    ``DeferredPod`` directly: no events are broadcast or filtered.

    What it does not do: fire when the pod ends. It fires only if the triggerer cannot follow the pod to its
    end: once the resume delay has passed, so that the task resumes on a worker.

    :param pod: ``name``, ``namespace`` and ``uid``; and ``init_containers`` if logs of init containers must
        still be copied: their names, or whether all are
    :param cluster: ``conn_id``, ``in_cluster``, ``cluster_context`` and ``config_file``
    :param log: how far the worker has read the pod's log (``LogPosition.to_json``)
    :param after_line: number of the last reported line that the worker has written
    :param start_by_ms: deadline for the container's start, in ms since 1970
    :param end_options: what the end of the pod means, and what to do with the pod then
    """

    def __init__(
        self,
        *,
        action_id: str,
        ti_id: str,
        pod: Mapping[str, Any],
        container: str,
        cluster: Mapping[str, Any],
        log: list[Any],
        after_line: int,
        get_logs: bool,
        stop_grace_seconds: float,
        start_by_ms: int | None,
        **end_options: Unpack[PodEndOptions],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kwargs: dict[str, Any] = {
            "action_id": action_id,
            "ti_id": ti_id,
            "pod": {name: pod[name] for name in _POD_KEYS if name in pod},
            "container": container,
            "cluster": dict(cluster),
            "log": list(log),
            "after_line": after_line,
            "get_logs": get_logs,
            "stop_grace_seconds": stop_grace_seconds,
            "start_by_ms": start_by_ms,
            **end_options,
        }
        self._pod: DeferredPod | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, which contain no secrets."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self._kwargs

    def shared_stream_key(self) -> Hashable:
        """Return the cluster and namespace of the pod, whose triggers share one watch."""
        return _parse_target(self._kwargs)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        """Watch the pods of a namespace, and clean up orphaned ones. Yields nothing, and never ends."""
        watch = get_watch(_parse_target(kwargs))
        sweep = asyncio.create_task(PodSweep(watch, get_hook_pool()).run(), context=contextvars.Context())
        try:
            await watch.run()
        finally:
            sweep.cancel()
        yield None  # makes it a generator

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Follow the pod. The stream is not read: the watch calls the observers of a pod itself."""
        async for event in self._follow():
            yield event

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the pod without a shared stream: start the watch unless it is running."""
        async with get_watch(_parse_target(self._kwargs)).running():
            async for event in self._follow():
                yield event

    async def on_kill(self) -> None:
        """Clean up after the server has completed the task; delete the pod if the task was killed."""
        await run_uncancelled(self._kill())

    async def _kill(self) -> None:
        pod = self._get_pod()
        async with get_watch(_parse_target(self._kwargs)).running():
            await pod.kill()

    async def _follow(self) -> AsyncIterator[TriggerEvent]:
        began_at = time.monotonic()
        try:
            await self._get_pod().follow()
            await asyncio.sleep(_COMPLETED_WITHIN_SECONDS)
            reason = "the exit was reported to the API server, but it has not completed the task"
        except Superseded:
            self.log.info("Another process of this task watches the pod")
            await asyncio.Event().wait()  # until this trigger is cancelled
            return
        except WorkerRequired as error:
            reason = str(error)
        resume_at = began_at + settings.resume_delay().total_seconds()
        await asyncio.sleep(max(0.0, resume_at - time.monotonic()))
        yield TriggerEvent({"reason": replace_unstorable(reason)[:MAX_MESSAGE_CHARS]})

    def _get_pod(self) -> DeferredPod:
        if self._pod is None:
            watch = get_watch(_parse_target(self._kwargs))
            options, limiter = _parse_options(self._kwargs), get_live_log_limiter()
            self._pod = DeferredPod(options, watch, get_hook_pool(), limiter, self.log)
        return self._pod


def _parse_target(kwargs: Mapping[str, Any]) -> ClusterNamespace:
    cluster = kwargs["cluster"]
    return ClusterNamespace(
        namespace=kwargs["pod"]["namespace"],
        conn_id=cluster["conn_id"],
        in_cluster=cluster["in_cluster"],
        cluster_context=cluster["cluster_context"],
        config_file=cluster["config_file"],
    )


def _parse_options(kwargs: Mapping[str, Any]) -> DeferredPodOptions:
    start_by_ms = kwargs["start_by_ms"]
    return DeferredPodOptions(
        action_id=kwargs["action_id"],
        ti_id=kwargs["ti_id"],
        name=kwargs["pod"]["name"],
        uid=kwargs["pod"]["uid"],
        logs=LogOptions(
            container=kwargs["container"],
            position=LogPosition.from_json(kwargs["log"]),
            get_logs=kwargs["get_logs"],
            init_containers=kwargs["pod"].get("init_containers", ()),
        ),
        after_line=kwargs["after_line"],
        stop_grace=timedelta(seconds=kwargs["stop_grace_seconds"]),
        start_by=None if start_by_ms is None else datetime.fromtimestamp(start_by_ms / 1000, UTC),
        on_finish=kwargs["on_finish"],
        keep_on_kill=kwargs["keep_on_kill"],
        skip_on_exit_code=tuple(kwargs["skip_on_exit_code"]),
    )
