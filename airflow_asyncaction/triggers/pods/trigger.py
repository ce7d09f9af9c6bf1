# SPDX-License-Identifier: Apache-2.0
"""The trigger of tasks whose job is a pod."""

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
from airflow_asyncaction.triggers.api_server import server
from airflow_asyncaction.triggers.on_kill import to_its_end
from airflow_asyncaction.triggers.pods.cluster import Place
from airflow_asyncaction.triggers.pods.deferred_pod import CannotWatch, DeferredPod, PodTerms
from airflow_asyncaction.triggers.pods.log_slots import log_slots
from airflow_asyncaction.triggers.pods.logs import WantedLogs
from airflow_asyncaction.triggers.pods.sweep import Sweep
from airflow_asyncaction.triggers.pods.watch import watch_of

_COMPLETED_WITHIN_SECONDS = 120.0
_OF_POD = ("name", "namespace", "uid", "init_containers")


class Ending(TypedDict):
    """What the end of a pod means, and what becomes of it then: arguments of :class:`PodActionTrigger`."""

    on_finish: str
    """What becomes of the pod at its end, as KubernetesPodOperator says it."""
    keep_on_kill: bool
    """Whether it is not deleted when the task is killed."""
    skip_on_exit_code: list[int]
    """Exit codes by which the job skips itself."""


class PodActionTrigger(BaseEventTrigger):
    """Waits for the end of one pod, and tells it to the API server, which completes the task.

    Purpose: thousands of deferred tasks cost a triggerer one watch of each cluster and namespace.

    How it works: it is a :class:`DeferredPod`; the shared stream is the watch, which calls each of them
    directly: nothing is broadcast, and no events are filtered.

    What it does not do: fire. Only if the pod cannot be seen through from here, it has the task resumed on a
    worker, not before the settle time is over.

    :param pod: ``name``, ``namespace`` and ``uid``; and ``init_containers``, if logs of them are still to be
        copied: their names, or whether all are
    :param cluster: ``conn_id``, ``in_cluster``, ``cluster_context`` and ``config_file``
    :param log: how far the worker has read the pod's log (``LogPosition.to_json``)
    :param after_line: the last reported line that the worker has written
    :param start_by_ms: when the container must be up, in ms since 1970
    :param ending: what an end means, and what becomes of the pod then
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
        **ending: Unpack[Ending],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kwargs: dict[str, Any] = {
            "action_id": action_id,
            "ti_id": ti_id,
            "pod": {name: pod[name] for name in _OF_POD if name in pod},
            "container": container,
            "cluster": dict(cluster),
            "log": list(log),
            "after_line": after_line,
            "get_logs": get_logs,
            "stop_grace_seconds": stop_grace_seconds,
            "start_by_ms": start_by_ms,
            **ending,
        }
        self._pod: DeferredPod | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments. There is no secret among them."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self._kwargs

    def shared_stream_key(self) -> Hashable:
        """Return the place of the pod: all triggers of a cluster and namespace share one watch."""
        return _place(self._kwargs)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        """Watch the pods of a place, and sweep it. Yields nothing, ends never."""
        watch = watch_of(_place(kwargs))
        sweep = asyncio.create_task(Sweep(watch, server()).run(), context=contextvars.Context())
        try:
            await watch.run()
        finally:
            sweep.cancel()
        yield None  # it is a generator

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """See the pod through. The stream is not read: the watch knows whom a change concerns."""
        async for event in self._see_through():
            yield event

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """See the pod through, with a watch of its own unless there is one."""
        async with watch_of(_place(self._kwargs)).running():
            async for event in self._see_through():
                yield event

    async def on_kill(self) -> None:
        """Clear up after the server has completed the task; end the pod if it was killed."""
        await to_its_end(self._kill())

    async def _kill(self) -> None:
        pod = self._deferred_pod()
        async with watch_of(_place(self._kwargs)).running():
            await pod.kill()

    async def _see_through(self) -> AsyncIterator[TriggerEvent]:
        began_at = time.monotonic()
        try:
            await self._deferred_pod().see_through()
            await asyncio.sleep(_COMPLETED_WITHIN_SECONDS)
            reason = "the API server knows the exit, but has not completed the task"
        except Superseded:
            self.log.info("Another process of this task looks after the pod")
            await asyncio.Event().wait()  # until this trigger is cancelled
            return
        except CannotWatch as error:
            reason = str(error)
        resume_at = began_at + settings.resume_delay().total_seconds()
        await asyncio.sleep(max(0.0, resume_at - time.monotonic()))
        yield TriggerEvent({"reason": replace_unstorable(reason)[:MAX_MESSAGE_CHARS]})

    def _deferred_pod(self) -> DeferredPod:
        if self._pod is None:
            watch = watch_of(_place(self._kwargs))
            self._pod = DeferredPod(_terms(self._kwargs), watch, server(), log_slots(), self.log)
        return self._pod


def _place(kwargs: Mapping[str, Any]) -> Place:
    cluster = kwargs["cluster"]
    return Place(
        namespace=kwargs["pod"]["namespace"],
        conn_id=cluster["conn_id"],
        in_cluster=cluster["in_cluster"],
        cluster_context=cluster["cluster_context"],
        config_file=cluster["config_file"],
    )


def _terms(kwargs: Mapping[str, Any]) -> PodTerms:
    start_by_ms = kwargs["start_by_ms"]
    return PodTerms(
        action_id=kwargs["action_id"],
        ti_id=kwargs["ti_id"],
        name=kwargs["pod"]["name"],
        uid=kwargs["pod"]["uid"],
        logs=WantedLogs(
            pod=kwargs["pod"]["name"],
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
