# SPDX-License-Identifier: Apache-2.0
"""Namespace watch: one watch for all pods of actions, shared by the triggers that follow them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol
from weakref import WeakValueDictionary

from structlog.contextvars import clear_contextvars

from airflow_asyncaction.runners.pods.api_requests import ClusterError, ClusterRefused
from airflow_asyncaction.runners.pods.exit_status import ACTION_LABEL, Pod, trim_pod
from airflow_asyncaction.runners.pods.watch import WatchState, is_expired
from airflow_asyncaction.triggers.pods.api import REFUSED_FOR, AsyncPodApi, ClusterNamespace

log = logging.getLogger(__name__)

_PAGE = 500
_LONGEST_PAUSE_SECONDS = 30.0


class PodObserver(Protocol):
    """Observes a pod. The watch calls both methods. They must return at once, and not raise."""

    def pod_changed(self, event: str, pod: Pod) -> None:
        """Handle a change to the pod.

        :param event: ``ADDED``, ``MODIFIED``, or ``DELETED``
        :param pod: its current state, or the last one before it was deleted
        """

    def watch_refused(self, reason: str) -> None:
        """Handle a cluster that keeps refusing the watch."""


class NamespaceWatch:
    """Lists the pods of a namespace, and watches them from there until cancelled.

    Purpose: 2,000 waiting pods cost one connection, and a change costs one call of its observer.

    How it works: list, then watch from the list's resourceVersion (:class:`WatchState`). When that has
    expired (410 Gone), the pods are listed again, and the differences are reported as changes.

    Pods without an observer are kept as well, trimmed, for later observers and for the clean-up of orphaned
    pods.
    """

    def __init__(self, api: AsyncPodApi) -> None:
        self.api = api
        self.pods: dict[str, Pod] = {}  # by uid
        self.state = WatchState(longest_pause_seconds=_LONGEST_PAUSE_SECONDS, jitter=True)
        self._observers: dict[str, list[PodObserver]] = {}  # by uid
        self._running = asyncio.Lock()
        self._listed = asyncio.Event()
        self._refused_since: float | None = None
        self._refusal: ClusterRefused | None = None

    def is_observed(self, uid: str) -> bool:
        """Return whether a pod has an observer in this process."""
        return uid in self._observers

    @contextmanager
    def observed(self, uid: str, observer: PodObserver) -> Iterator[None]:
        """Report the pod, if it is known, and each later change of it to an observer."""
        self._observers.setdefault(uid, []).append(observer)
        try:
            if uid in self.pods:
                observer.pod_changed("ADDED", self.pods[uid])
            yield
        finally:
            self._observers[uid].remove(observer)
            if not self._observers[uid]:
                del self._observers[uid]

    async def has_pod(self, name: str, uid: str) -> bool:
        """Return whether a pod exists. Wait for the list, and read a pod that is not in it.

        :raises ClusterError: the cluster is unavailable, or refuses the request
        """
        await self._listed.wait()
        if self._refusal is not None:
            raise self._refusal
        if uid in self.pods:
            return True
        pod = await self.api.send(self.api.requests.read_pod(name))
        return pod is not None and pod["metadata"]["uid"] == uid

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the watch in a separate asyncio task, in case no shared stream runs it."""
        task = asyncio.create_task(self.run(), name="asyncaction-pod-watch", context=contextvars.Context())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def run(self) -> None:
        """Watch until cancelled. If another task runs the watch, wait, and take over when that ends."""
        clear_contextvars()  # its log lines do not belong to a single task
        async with self._running:
            try:
                while True:
                    pause = await self._list_and_watch()
                    await asyncio.sleep(pause)
            finally:
                self._listed.clear()  # changes from here on are missed
                self.state.version = None
                await self.api.close()

    async def _list_and_watch(self) -> float:
        """Watch until the stream ends, after a list if one is needed; return how long to pause then."""
        began_at, failure = time.monotonic(), None
        try:
            if self.state.version is None:
                self.state.version = await self._list()
            await self._watch(self.state.version)
        except ClusterError as error:
            failure = error
        except Exception:  # otherwise all triggers of this namespace would fail with it
            log.exception("The watch of pods in %s failed. Restarting it", self.api.target.namespace)
            self.state.version = None
        pause = self.state.end_attempt(failure, lasted_seconds=time.monotonic() - began_at)
        if failure is not None:
            self._note_failure(failure)
        return pause

    async def _list(self) -> str:
        """Read all pods, report what has changed since the last time, and return the list's version."""
        seen: set[str] = set()
        page: str | None = None
        version = ""
        while page is None or page:
            request = self.api.requests.list_pods(ACTION_LABEL, limit=_PAGE, page=page)
            answer: Mapping[str, Any] = await self.api.send(request)
            for pod in answer.get("items") or ():
                seen.add(pod["metadata"]["uid"])
                self._update(pod, "MODIFIED")
            version, page = answer["metadata"]["resourceVersion"], answer["metadata"].get("continue") or ""
        for uid in self.pods.keys() - seen:
            self._forget(uid, self.pods[uid])
        self._refusal = None
        self._listed.set()
        return version

    async def _watch(self, version: str) -> None:
        """Follow the changes after a version until the stream ends, or the version has expired."""
        self.state.begin_stream()
        request = self.api.requests.watch_pods(version, label=ACTION_LABEL)
        async with self.api.open_stream(request) as chunks:
            self._refused_since = None
            async for chunk in chunks:
                for change in self.state.feed(chunk):
                    if change.pod is None:
                        continue
                    if change.kind == "DELETED":
                        self._forget(change.pod["metadata"]["uid"], trim_pod(change.pod))
                    else:
                        self._update(change.pod, change.kind)
                if self.state.version is None:
                    return

    def _update(self, pod: Pod, event: str) -> None:
        uid, trimmed = pod["metadata"]["uid"], trim_pod(pod)
        before = self.pods.get(uid)
        self.pods[uid] = trimmed
        if before is None or _resource_version(before) != _resource_version(trimmed):
            self._notify(uid, event, trimmed)

    def _forget(self, uid: str, pod: Pod) -> None:
        self.pods.pop(uid, None)
        self._notify(uid, "DELETED", pod)

    def _notify(self, uid: str, event: str, pod: Pod) -> None:
        for observer in tuple(self._observers.get(uid, ())):
            try:
                observer.pod_changed(event, pod)
            except Exception:  # an observer that fails must not keep the change from the others
                log.exception("The change of pod %s could not be processed", pod["metadata"]["name"])

    def _note_failure(self, error: ClusterError) -> None:
        """Log a failure once, and give up for all observers if the cluster keeps refusing."""
        if is_expired(error):
            return
        if self.state.should_log(error):
            log.warning("Pods in %s cannot be watched now, retrying: %s", self.api.target.namespace, error)
        if not isinstance(error, ClusterRefused):
            self._refused_since = None
            return
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        if now - self._refused_since > REFUSED_FOR.total_seconds():
            self._refusal = error
            self._listed.set()  # no observer may wait for the list any longer
            for observers in tuple(self._observers.values()):
                for observer in tuple(observers):
                    observer.watch_refused(str(error))


_watches: WeakValueDictionary[tuple[int, ClusterNamespace], NamespaceWatch] = WeakValueDictionary()


def get_watch(target: ClusterNamespace) -> NamespaceWatch:
    """Return the watch of a namespace, which all callers in this event loop share."""
    key = (id(asyncio.get_running_loop()), target)
    watch = _watches.get(key)
    if watch is None:
        watch = _watches[key] = NamespaceWatch(AsyncPodApi(target))
    return watch


def _resource_version(pod: Pod) -> str:
    return str(pod["metadata"].get("resourceVersion"))
