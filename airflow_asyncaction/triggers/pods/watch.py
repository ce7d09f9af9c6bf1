# SPDX-License-Identifier: Apache-2.0
"""One watch for all pods of a namespace that are jobs: who waits for a pod is told of its changes alone."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from typing import Any, Protocol
from weakref import WeakValueDictionary

from structlog.contextvars import clear_contextvars

from airflow_asyncaction.runners.pods.exit_status import ACTION_LABEL, Pod, trimmed
from airflow_asyncaction.triggers.pods.cluster import Cluster, ClusterError, ClusterRefused, Place

log = logging.getLogger(__name__)

_PAGE = 500
_WATCH_SECONDS = 540
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_LONG_SECONDS = 10.0
_FAILURES_BEFORE_LIST = 3
_REFUSED_FOR_GOOD_SECONDS = 30.0


class PodObserver(Protocol):
    """Who waits for a pod. Both calls come from the watch: they must return at once, and raise nothing."""

    def pod_changed(self, event: str, pod: Pod) -> None:
        """Take the pod as it is now. ``event``: ``ADDED``, ``MODIFIED``, or ``DELETED`` (how it was last)."""

    def watch_refused(self, reason: str) -> None:
        """Take note that the cluster lets nobody watch here."""


class PodWatch:
    """Lists the pods of a place, then watches them, for ever.

    Purpose: 2,000 waiting pods cost one connection, and a change costs one call of who waits for it.

    How it works: list, then watch from the list's resourceVersion; bookmarks keep the version young while
    nothing happens; a version that is too old (410 Gone) means a new list, whose differences are told as
    changes. While the cluster is away it tries again, ever more seldom.

    What it does not do: read what nobody waits for; but it keeps all pods, trimmed, for late observers and
    for the sweep.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.pods: dict[str, Pod] = {}  # by uid
        self._observers: dict[str, list[PodObserver]] = {}  # by uid
        self._one_at_a_time = asyncio.Lock()
        self._listed = asyncio.Event()
        self._refused_since: float | None = None
        self._refusal: ClusterRefused | None = None
        self.version: str | None = None
        """The resourceVersion up to which it knows all."""

    def is_observed(self, uid: str) -> bool:
        """Tell whether somebody in this process waits for a pod."""
        return uid in self._observers

    @contextmanager
    def observed(self, uid: str, observer: PodObserver) -> Iterator[None]:
        """Tell an observer of each change to a pod from now on; of what is known now, at once."""
        self._observers.setdefault(uid, []).append(observer)
        try:
            if uid in self.pods:
                observer.pod_changed("ADDED", self.pods[uid])
            yield
        finally:
            self._observers[uid].remove(observer)
            if not self._observers[uid]:
                del self._observers[uid]

    async def is_there(self, name: str, uid: str) -> bool:
        """Tell whether a pod exists, once there is a list; what is not in it is asked for.

        :raises ClusterError: the cluster does not say
        """
        await self._listed.wait()
        if self._refusal is not None:
            raise self._refusal
        if uid in self.pods:
            return True
        pod = await self.cluster.pod(name)
        return pod is not None and pod["metadata"]["uid"] == uid

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let it run in a task of its own, for who has nobody that runs it."""
        task = asyncio.create_task(self.run(), name="asyncaction-pod-watch", context=contextvars.Context())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def run(self) -> None:
        """Watch until cancelled. If it runs already, take over when that ends."""
        clear_contextvars()  # what it logs belongs to no single task
        async with self._one_at_a_time:
            try:
                while True:
                    await self._list_and_watch()
            finally:
                self._listed.clear()  # what happens from here on is not seen
                self.version = None
                await self.cluster.close()

    async def _list_and_watch(self) -> None:
        pause, failures = _FIRST_PAUSE_SECONDS, 0
        while True:
            began_at = time.monotonic()
            try:
                if self.version is None:
                    self.version = await self._list()
                await self._watch(self.version)
                failures = 0
            except ClusterError as error:
                failures += 1
                self._failed(error, is_first=failures == 1)
                if isinstance(error, ClusterRefused) or failures > _FAILURES_BEFORE_LIST:
                    self.version = None
            except Exception:  # all triggers here would fail with it
                log.exception("The watch of pods in %s broke; it begins again", self.cluster.place.namespace)
                self.version = None
            lasted = time.monotonic() - began_at
            if lasted > _LONG_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
                if failures == 0:
                    continue
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _list(self) -> str:
        """Take in all pods, tell what has changed since the last look, and return the list's version."""
        seen: set[str] = set()
        page: str | None = None
        version = ""
        while page is None or page:
            answer = await self.cluster.pods(ACTION_LABEL, limit=_PAGE, next_page=page)
            for pod in answer.get("items") or ():
                seen.add(pod["metadata"]["uid"])
                self._take("MODIFIED", pod)
            version, page = answer["metadata"]["resourceVersion"], answer["metadata"].get("continue") or ""
        for uid in self.pods.keys() - seen:
            self._forget(uid, self.pods[uid])
        self._refusal = None
        self._listed.set()
        return version

    async def _watch(self, version: str) -> None:
        """Follow the changes after a version until the stream ends, or the version is too old."""
        async with self.cluster.watched_pods(ACTION_LABEL, version, for_seconds=_WATCH_SECONDS) as chunks:
            self._refused_since = None
            async for line in _lines(chunks):
                change = json.loads(line)
                kind, pod = change["type"], change["object"]
                if kind == "ERROR":
                    if pod.get("code") != HTTPStatus.GONE:
                        log.warning("The watch of pods was ended: %s", pod.get("message"))
                    self.version = None
                    return
                self.version = pod["metadata"]["resourceVersion"]
                if kind == "DELETED":
                    self._forget(pod["metadata"]["uid"], trimmed(pod))
                elif kind != "BOOKMARK":
                    self._take(kind, pod)

    def _take(self, event: str, pod: Mapping[str, Any]) -> None:
        uid, known = pod["metadata"]["uid"], trimmed(pod)
        before = self.pods.get(uid)
        self.pods[uid] = known
        if before is None or _version(before) != _version(known):
            self._tell(event, uid, known)

    def _forget(self, uid: str, pod: Pod) -> None:
        self.pods.pop(uid, None)
        self._tell("DELETED", uid, pod)

    def _tell(self, event: str, uid: str, pod: Pod) -> None:
        for observer in tuple(self._observers.get(uid, ())):
            try:
                observer.pod_changed(event, pod)
            except Exception:  # one that fails must not blind the others
                log.exception("A change of pod %s could not be taken in", pod["metadata"]["name"])

    def _failed(self, error: ClusterError, *, is_first: bool) -> None:
        if isinstance(error, ClusterRefused) and error.status == HTTPStatus.GONE:
            return
        if is_first:
            log.warning("Pods in %s cannot be watched now: %s", self.cluster.place.namespace, error)
        if not isinstance(error, ClusterRefused):
            self._refused_since = None
            return
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        if now - self._refused_since > _REFUSED_FOR_GOOD_SECONDS:  # a cluster that starts refuses, too
            self._refusal = error
            self._listed.set()  # nobody is to wait for it
            for observers in tuple(self._observers.values()):
                for observer in tuple(observers):
                    observer.watch_refused(str(error))


_watches: WeakValueDictionary[tuple[int, Place], PodWatch] = WeakValueDictionary()


def watch_of(place: Place) -> PodWatch:
    """Return the watch of a place, which is the same one for all in this event loop that hold it."""
    key = (id(asyncio.get_running_loop()), place)
    watch = _watches.get(key)
    if watch is None:
        watch = _watches[key] = PodWatch(Cluster(place))
    return watch


def _version(pod: Pod) -> str:
    return str(pod["metadata"].get("resourceVersion"))


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield whole lines; a rest is dropped, since the watch was cut there."""
    rest: list[bytes] = []
    async for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        if whole:
            yield b"".join([*rest, whole[0]])
            for line in whole[1:]:
                yield line
            rest = []
        rest.append(last)
