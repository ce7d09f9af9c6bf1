# SPDX-License-Identifier: Apache-2.0
"""The requests of a runner to the Kubernetes API, made again while the cluster is away."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from datetime import timedelta
from http.client import HTTPException
from typing import Any

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from airflow_asyncaction.runners.pods.api_advice import advised

log = logging.getLogger(__name__)

_TIMEOUTS_SECONDS = (10, 30)
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_AWAY = frozenset({0, 408, 429, 500, 502, 503, 504})

CONFLICT = 409
NOT_FOUND = 404


class ClusterRefused(Exception):
    """The cluster will not do it, in its own words, or was away for too long.

    ``status`` is that of its answer, ``None`` if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class GivenUp(Exception):
    """The cluster is away, and there is no use in asking it any more."""


class PodApi:
    """What a runner asks of a cluster. Answers are JSON.

    :param is_given_up: whether there is no use in asking again
    """

    def __init__(self, client: k8s.CoreV1Api, is_given_up: Callable[[], bool]) -> None:
        self.client = client
        self._is_given_up = is_given_up

    def pods(self, namespace: str, selector: str, patience: timedelta | None) -> Any:
        """Return the list of pods that have these labels."""
        return self._ask(patience, self.client.list_namespaced_pod, namespace, label_selector=selector)

    def pod(self, name: str, namespace: str, patience: timedelta | None) -> Any:
        """Return a pod."""
        return self._ask(patience, self.client.read_namespaced_pod, name, namespace)

    def events(self, uid: str, namespace: str, patience: timedelta | None) -> Any:
        """Return the events of a pod."""
        selector = f"involvedObject.uid={uid}"
        call = self.client.list_namespaced_event
        return self._ask(patience, call, namespace, field_selector=selector)["items"]

    def create_pod(self, pod: k8s.V1Pod, patience: timedelta | None) -> Any:
        """Create a pod, and return it."""
        return self._ask(patience, self.client.create_namespaced_pod, pod.metadata.namespace, pod)

    def create_secret(self, secret: k8s.V1Secret, namespace: str, patience: timedelta | None) -> None:
        """Create a Secret, unless it is there."""
        try:
            self._ask(patience, self.client.create_namespaced_secret, namespace, secret)
        except ClusterRefused as refused:
            if refused.status != CONFLICT:
                raise

    def delete_pod(
        self, name: str, namespace: str, uid: str, *, grace: timedelta, patience: timedelta | None
    ) -> None:
        """Delete this pod, and no other one of its name; it may be gone."""
        body = k8s.V1DeleteOptions(
            grace_period_seconds=int(grace.total_seconds()),
            preconditions=k8s.V1Preconditions(uid=uid) if uid else None,
        )
        self._drop(patience, self.client.delete_namespaced_pod, name, namespace, body=body)

    def delete_secret(self, name: str, namespace: str, patience: timedelta | None) -> None:
        """Delete a Secret; it may be gone."""
        self._drop(patience, self.client.delete_namespaced_secret, name, namespace)

    def _drop(self, patience: timedelta | None, call: Callable[..., Any], *args: Any, **options: Any) -> None:
        try:
            self._ask(patience, call, *args, **options)
        except ClusterRefused as refused:
            if refused.status not in (NOT_FOUND, CONFLICT):
                raise

    def _ask(self, patience: timedelta | None, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Ask the cluster, again while it is away.

        :param patience: for how long; ``None``: for ever
        :raises ClusterRefused: it will not, or was away for too long
        :raises GivenUp: it is away, and there is no use any more
        """
        options |= {"_preload_content": False, "_request_timeout": _TIMEOUTS_SECONDS}
        until = math.inf if patience is None else time.monotonic() + patience.total_seconds()
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return json.loads(call(*args, **options).data)
            except ApiException as error:
                refused = ClusterRefused(advised(said(error), error.status), error.status)
                if error.status not in _AWAY:
                    raise refused from error
            except (HTTPError, HTTPException, OSError) as error:
                refused = ClusterRefused(f"The Kubernetes API cannot be reached: {error}")
            if time.monotonic() > until:
                raise refused
            if self._is_given_up():
                raise GivenUp(str(refused))
            left = max(until - time.monotonic(), 0.0)
            for_how_long = "" if left == math.inf else f", for {left:.0f} s at the most"
            log.warning("%s. Trying again in %g s%s", str(refused).rstrip("."), pause, for_how_long)
            time.sleep(min(pause, left + _FIRST_PAUSE_SECONDS))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def said(error: ApiException) -> str:
    """Return the API's own message."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.status} {error.reason}"
