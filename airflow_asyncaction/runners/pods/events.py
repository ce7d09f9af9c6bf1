# SPDX-License-Identifier: Apache-2.0
"""What becomes of one pod, for who waits for it alone."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from http.client import HTTPException
from queue import Empty, SimpleQueue
from typing import Any

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from airflow_asyncaction.runners.pods.api import said
from airflow_asyncaction.runners.pods.api_advice import advised
from airflow_asyncaction.runners.pods.exit_status import Pod

log = logging.getLogger(__name__)

_WATCH_SECONDS = 300
_TIMEOUTS_SECONDS = (10, _WATCH_SECONDS + 30)
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0


class PodEvents:
    """Watches one pod in a thread, for ever: through broken connections, and while the cluster is away.

    How it works: watch from the version that is known; where that is too old (410 Gone), read the pod.

    """

    def __init__(self, client: k8s.CoreV1Api) -> None:
        self._client = client
        self._name = self._namespace = self._uid = ""
        self._version: str | None = None
        self._events: SimpleQueue[tuple[str, Pod | None]] = SimpleQueue()
        self._closed = threading.Event()
        self._response: Any = None
        self._failures = 0

    def start(self, pod: Pod, version: str) -> None:
        """Begin to watch a pod that exists.

        :param version: the resourceVersion that ``pod`` was read at; what happened before is not told
        """
        metadata = pod["metadata"]
        self._name, self._namespace, self._uid = metadata["name"], metadata["namespace"], metadata["uid"]
        self._version = version
        threading.Thread(target=self._run, name="asyncaction-pod-events", daemon=True).start()

    def wake(self) -> None:
        """Make :meth:`next` return. May be called from a signal handler."""
        self._events.put(("", None))

    def next(self, timeout_seconds: float) -> tuple[str, Pod | None]:
        """Return the kind of the next event and the pod; nothing and ``None`` when time is up, or woken."""
        try:
            return self._events.get(timeout=timeout_seconds)
        except Empty:
            return "", None

    def close(self) -> None:
        """End the watch."""
        self._closed.set()
        response = self._response
        if hasattr(response, "shutdown"):  # else it ends with its connection, at the latest
            with suppress(HTTPError, OSError, ValueError, RuntimeError):
                response.shutdown()

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._closed.is_set():
            try:
                if self._version is None:
                    self._read()
                for event, pod in self._watch():
                    pause, self._failures = _FIRST_PAUSE_SECONDS, 0
                    if event != "BOOKMARK":
                        self._events.put((event, pod))
            except ApiException as error:
                if error.status == 410:
                    self._version = None
                else:
                    self._failed(advised(said(error), error.status), say_at=1)
            except (HTTPError, HTTPException, OSError, ValueError) as error:
                self._failed(str(error), say_at=2)  # a watch may break: the next one tells
            self._closed.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _failed(self, why: str, *, say_at: int) -> None:
        """Note a failure, and say it once: a watch is begun again for as long as it takes.

        :param say_at: how many failures in a row are worth a line
        """
        self._failures += 1
        if self._failures == say_at and not self._closed.is_set():
            log.warning("The pod %s cannot be watched now: %s", self._name, why)

    def _read(self) -> None:
        try:
            response = self._client.read_namespaced_pod(
                self._name, self._namespace, _preload_content=False, _request_timeout=_TIMEOUTS_SECONDS
            )
        except ApiException as error:
            if error.status == 404:
                self._gone()
            raise
        pod = json.loads(response.data)
        if pod["metadata"]["uid"] != self._uid:
            self._gone()
        else:
            self._version = pod["metadata"]["resourceVersion"]
            self._events.put(("MODIFIED", pod))

    def _gone(self) -> None:
        self._events.put(("DELETED", None))
        self._closed.set()

    def _watch(self) -> Iterator[tuple[str, Pod]]:
        if self._closed.is_set():
            return
        response = self._client.list_namespaced_pod(
            self._namespace,
            field_selector=f"metadata.name={self._name}",
            watch=True,
            resource_version=self._version,
            allow_watch_bookmarks=True,
            timeout_seconds=_WATCH_SECONDS,
            _preload_content=False,
            _request_timeout=_TIMEOUTS_SECONDS,
        )
        self._response = response
        with closing(response):
            for line in _lines(response):
                change: Mapping[str, Any] = json.loads(line)
                pod: Pod = change["object"]
                if change["type"] == "ERROR":
                    self._version = None
                    return
                self._version = pod["metadata"]["resourceVersion"]
                if pod["metadata"].get("uid") in (self._uid, None):  # a bookmark has none
                    yield change["type"], pod
                if self._closed.is_set():
                    return


def _lines(response: Any) -> Iterator[bytes]:
    """Yield whole lines; what is left of one when the connection ends is dropped."""
    rest = b""
    for chunk in response.stream(amt=None, decode_content=False):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line)
