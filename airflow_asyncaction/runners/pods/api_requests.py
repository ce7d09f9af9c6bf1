# SPDX-License-Identifier: Apache-2.0
"""Kubernetes API requests as data, and the meaning of their responses. No I/O.

``runners.pods.api.PodApi`` sends them from a worker, ``triggers.pods.api.AsyncPodApi`` from a triggerer.

ClusterError
  ClusterUnavailable   no answer, or a temporary error: retry
  ClusterRefused       the API refused the request: ``status`` says why
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from airflow_asyncaction.runners.pods.api_advice import add_advice

WATCH_TIMEOUT_SECONDS = 540
"""How long a watch lasts. The API server then ends it, and a new one begins."""

_CONNECT_SECONDS = 10
_TIMEOUT_SECONDS = (_CONNECT_SECONDS, 30)  # to connect, and between two reads
_WATCH_READ_TIMEOUT_SECONDS = (_CONNECT_SECONDS, 150)  # the API server sends a bookmark every minute
_TEMPORARY = frozenset({0, 408, 429, 500, 502, 503, 504})
_GONE = frozenset({HTTPStatus.NOT_FOUND})
_GONE_OR_REPLACED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT})
_EXISTS = frozenset({HTTPStatus.CONFLICT})
_MESSAGE_CHARS = 200


class ClusterError(Exception):
    """A request to the Kubernetes API failed."""


class ClusterUnavailable(ClusterError):
    """The Kubernetes API is unavailable: retry."""


class ClusterRefused(ClusterError):
    """The Kubernetes API refused a request.

    ``status`` is the HTTP status of its response; 0 if there is no usable configuration to send one with.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class ApiRequest:
    """A call of ``CoreV1Api``, whose methods have the same names in both Kubernetes clients.

    :param ignored: HTTP statuses that mean that there is nothing to do or to return
    :param timeout_seconds: timeouts for connecting, and between two reads
    """

    method: str
    args: tuple[Any, ...] = field(repr=False)  # a Secret may be among them
    options: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[int] = frozenset()
    timeout_seconds: tuple[int, int] = _TIMEOUT_SECONDS

    def call(self, client: Any) -> Any:
        """Call a client, which returns its raw response, or an awaitable of it."""
        options = {**self.options, "_preload_content": False, "_request_timeout": self.timeout_seconds}
        return getattr(client, self.method)(*self.args, **options)


@dataclass(frozen=True)
class PodRequests:
    """Builds the requests for the pods of one namespace.

    :param silence_seconds: how long a log that is followed may be silent before it is read again
    """

    namespace: str
    silence_seconds: int = 300

    def list_pods(self, selector: str, *, limit: int | None = None, page: str | None = None) -> ApiRequest:
        """List the pods whose labels match, or one page of them."""
        return self._list("pod", label_selector=selector, limit=limit, _continue=page)

    def watch_pods(self, version: str, *, label: str | None = None, name: str | None = None) -> ApiRequest:
        """Watch the pods that have a label or a name for changes after a resourceVersion."""
        request = self._list(
            "pod",
            label_selector=label,
            field_selector=None if name is None else f"metadata.name={name}",
            watch=True,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_TIMEOUT_SECONDS,
        )
        return replace(request, timeout_seconds=_WATCH_READ_TIMEOUT_SECONDS)

    def list_events(self, uid: str) -> ApiRequest:
        """List the events of a pod."""
        return self._list("event", field_selector=f"involvedObject.uid={uid}")

    def read_pod(self, name: str) -> ApiRequest:
        """Read a pod; ``None`` if no pod has that name."""
        return ApiRequest("read_namespaced_pod", (name, self.namespace), ignored=_GONE)

    def read_log(self, pod: str, **options: Any) -> ApiRequest:
        """Read the log of a ``container`` with time stamps.

        :param options: ``follow``, ``since_seconds``, ``tail_lines``
        """
        options = _drop_unset({**options, "timestamps": True})
        request = ApiRequest("read_namespaced_pod_log", (pod, self.namespace), options)
        return replace(request, timeout_seconds=(_CONNECT_SECONDS, self.silence_seconds))

    def create_pod(self, pod: Any) -> ApiRequest:
        """Create a pod."""
        return ApiRequest("create_namespaced_pod", (self.namespace, pod))

    def delete_pod(self, name: str, uid: str, *, grace_seconds: int | None = None) -> ApiRequest:
        """Delete a pod if it has this uid. It may be gone, or replaced by another pod of that name."""
        preconditions = {"uid": uid} if uid else None
        body = _drop_unset({"gracePeriodSeconds": grace_seconds, "preconditions": preconditions})
        arguments = (name, self.namespace)
        return ApiRequest("delete_namespaced_pod", arguments, {"body": body}, ignored=_GONE_OR_REPLACED)

    def create_secret(self, secret: Any) -> ApiRequest:
        """Create a Secret, unless it exists."""
        return ApiRequest("create_namespaced_secret", (self.namespace, secret), ignored=_EXISTS)

    def read_secret(self, name: str) -> ApiRequest:
        """Read a Secret; ``None`` if no Secret has that name."""
        return ApiRequest("read_namespaced_secret", (name, self.namespace), ignored=_GONE)

    def delete_secret(self, name: str) -> ApiRequest:
        """Delete a Secret. It may be gone."""
        return ApiRequest("delete_namespaced_secret", (name, self.namespace), ignored=_GONE_OR_REPLACED)

    def _list(self, kind: str, **options: Any) -> ApiRequest:
        return ApiRequest(f"list_namespaced_{kind}", (self.namespace,), _drop_unset(options))


def parse_response(request: ApiRequest, status: int, body: bytes | str) -> Any:
    """Return the JSON of a response; ``None`` for a status that the request ignores.

    :raises ClusterError: the request failed
    """
    if status in request.ignored:
        return None
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise describe_failure(status, body)
    try:
        return json.loads(body)
    except ValueError as error:
        raise describe_unreachable(error) from error


def describe_failure(status: int, body: bytes | str | None) -> ClusterError:
    """Return the exception for an error response, with advice if there is any."""
    message = f"The Kubernetes API returned {status}: {add_advice(_parse_message(body), status)}"
    return ClusterUnavailable(message) if status in _TEMPORARY else ClusterRefused(message, status=status)


def describe_unreachable(error: Exception) -> ClusterUnavailable:
    """Return the exception for a request that got no response, or a part of one."""
    return ClusterUnavailable(f"The Kubernetes API cannot be reached ({type(error).__name__}: {error})")


def _drop_unset(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _parse_message(body: bytes | str | None) -> str:
    """Return the API's own message, or the beginning of a proxy's response."""
    try:
        return str(json.loads(body or "")["message"])
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
        return text[:_MESSAGE_CHARS]
