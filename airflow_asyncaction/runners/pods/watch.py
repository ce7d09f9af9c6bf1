# SPDX-License-Identifier: Apache-2.0
"""Pod watch: reopened whenever it ends, breaks or expires.

:class:`WatchState` decides, and does no I/O. :class:`PodWatchThread` watches one pod from a worker,
``triggers.pods.watch`` all pods of a namespace.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from queue import Empty, SimpleQueue

from airflow_asyncaction.retrying import ExponentialBackoff
from airflow_asyncaction.runners.pods.api import PodApi, ResponseStream
from airflow_asyncaction.runners.pods.api_requests import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    PodRequests,
)
from airflow_asyncaction.runners.pods.exit_status import Pod

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_LONG_SECONDS = 10.0
_FAILURES_BEFORE_LIST = 3


@dataclass(frozen=True)
class PodChange:
    """An event of a watch.

    :param kind: ``ADDED``, ``MODIFIED`` or ``DELETED``
    :param pod: its current or last known state; ``None`` if that is unknown
    """

    kind: str
    pod: Pod | None


class WatchState:
    """The resourceVersion that a watch has reached, and when to open the next watch.

    How it works: while :attr:`version` is ``None``, the caller reads the current state and sets it. Otherwise
    it watches from there, and passes the response to :meth:`feed`. A version that is too old (410 Gone) is
    dropped. Bookmarks keep it recent while nothing happens. After a read or a watch, :meth:`end_attempt`
    returns how long to pause.
    """

    def __init__(
        self, version: str | None = None, *, longest_pause_seconds: float, jitter: bool = False
    ) -> None:
        self.version = version
        """The resourceVersion up to which all changes are known."""
        self.failures = 0
        """How many attempts have failed in a row."""
        self._backoff = ExponentialBackoff(_FIRST_PAUSE_SECONDS, longest_pause_seconds, jitter=jitter)
        self._rest = b""

    def begin_stream(self) -> None:
        """Discard a line that the previous stream left incomplete."""
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[PodChange]:
        """Yield the changes that a chunk of the response completes.

        Stop reading the stream once :attr:`version` is unset.

        :raises ClusterUnavailable: a line is not a watch event
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in filter(None, lines):
            try:
                event = json.loads(line)
                kind, pod = event["type"], event["object"]
                version = None if kind == "ERROR" else pod["metadata"]["resourceVersion"]
            except (ValueError, KeyError, TypeError) as error:
                raise ClusterUnavailable("The Kubernetes API sent an invalid watch event") from error
            self.version = version
            if version is None:  # usually 410 Gone
                return
            self.failures = 0
            self._backoff.reset()
            if kind != "BOOKMARK":
                yield PodChange(kind, pod)

    def end_attempt(self, error: ClusterError | None, *, lasted_seconds: float) -> float:
        """Note the end of a read or a watch; return how many seconds to pause before the next one.

        :param error: why it failed, if it did
        """
        if is_expired(error):
            self.version = None
        elif error is not None:
            self.failures += 1
            if isinstance(error, ClusterRefused) or self.failures > _FAILURES_BEFORE_LIST:
                self.version = None
        else:
            self.failures = 0
        if lasted_seconds > _LONG_SECONDS:
            self._backoff.reset()
            if error is None:
                return 0.0
        return self._backoff.next_pause()

    def should_log(self, error: ClusterError) -> bool:
        """Return whether to log the last failure: the first refusal, but the second broken connection."""
        first = 1 if isinstance(error, ClusterRefused) else 2
        return not is_expired(error) and self.failures == first


def is_expired(error: ClusterError | None) -> bool:
    """Return whether the API no longer knows a resourceVersion."""
    return isinstance(error, ClusterRefused) and error.status == HTTPStatus.GONE


class PodWatchThread:
    """Watches a pod until it is deleted, across broken connections and outages of the cluster."""

    def __init__(self, api: PodApi) -> None:
        self._api = api
        self._name = self._uid = ""
        self._requests = PodRequests("")
        self._state = WatchState(longest_pause_seconds=_LONGEST_PAUSE_SECONDS)
        self._changes: SimpleQueue[PodChange | None] = SimpleQueue()
        self._closed = threading.Event()
        self._stream: ResponseStream | None = None

    def start(self, pod: Pod, version: str) -> None:
        """Begin to watch a pod that exists.

        :param version: the resourceVersion at which ``pod`` was read; earlier changes are not reported
        """
        metadata = pod["metadata"]
        self._name, self._uid = metadata["name"], metadata["uid"]
        self._requests = PodRequests(metadata["namespace"])
        self._state.version = version
        threading.Thread(target=self._run, name="asyncaction-pod-watch", daemon=True).start()

    def wake(self) -> None:
        """Make :meth:`next_change` return. May be called from a signal handler."""
        self._changes.put(None)

    def next_change(self, timeout_seconds: float) -> PodChange | None:
        """Return the next change; ``None`` if the timeout expires or :meth:`wake` is called."""
        try:
            return self._changes.get(timeout=timeout_seconds)
        except Empty:
            return None

    def close(self) -> None:
        """End the watch."""
        self._closed.set()
        if self._stream is not None:
            self._stream.interrupt()

    def _run(self) -> None:
        while not self._closed.is_set():
            began_at, failure = time.monotonic(), None
            try:
                if self._state.version is None:
                    self._read()
                for change in self._watch():
                    self._changes.put(change)
            except ClusterError as error:
                failure = error
            pause = self._state.end_attempt(failure, lasted_seconds=time.monotonic() - began_at)
            if failure is not None and self._state.should_log(failure) and not self._closed.is_set():
                log.warning("Pod %s cannot be watched now, retrying: %s", self._name, failure)
            self._closed.wait(pause)

    def _read(self) -> None:
        pod = self._api.send_once(self._requests.read_pod(self._name))
        if pod is None or pod["metadata"]["uid"] != self._uid:
            self._changes.put(PodChange("DELETED", None))
            self._closed.set()
        else:
            self._state.version = pod["metadata"]["resourceVersion"]
            self._changes.put(PodChange("MODIFIED", pod))

    def _watch(self) -> Iterator[PodChange]:
        """Yield the changes of the pod until the stream ends. Ignore another pod of that name."""
        if self._closed.is_set() or self._state.version is None:
            return
        self._state.begin_stream()
        request = self._requests.watch_pods(self._state.version, name=self._name)
        with self._api.open_stream(request) as self._stream:
            if self._closed.is_set():
                return
            for chunk in self._stream:
                for change in self._state.feed(chunk):
                    if change.pod is not None and change.pod["metadata"]["uid"] == self._uid:
                        yield change
                if self._closed.is_set() or self._state.version is None:
                    return
