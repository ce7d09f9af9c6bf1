# SPDX-License-Identifier: Apache-2.0
"""One namespace of a Kubernetes cluster, as a triggerer speaks to it: JSON, asyncio, one client for all.

ClusterError
  ClusterAway      it does not answer now: try again
  ClusterRefused   it answered that it will not: ``status`` says why
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk.exceptions import AirflowException
from kubernetes_asyncio import client as k8s
from kubernetes_asyncio.config import ConfigException

from airflow_asyncaction import settings
from airflow_asyncaction.runners.pods.api_advice import advised

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = (10, 30)  # to connect, and between two pieces of an answer
_STREAM_TIMEOUT_SECONDS = (10, 150)  # a watch has a bookmark each minute
_LOG_TIMEOUT_SECONDS = (10, 3600)  # a container may be silent; what follows the log knows when it ended
_AT_A_TIME = 8
_RENEW_AFTER_SECONDS = 5.0
_REFUSED_FOR_GOOD_SECONDS = 30.0
_PAUSE_SECONDS = 2.0
_AWAY = frozenset({408, 429, 500, 502, 503, 504})

T = TypeVar("T")

Ask = Callable[[k8s.CoreV1Api], Awaitable[Any]]
"""A call of the API with ``_preload_content=False``, so that it returns the response as it comes."""


class ClusterError(Exception):
    """The Kubernetes API did not do what it was asked for."""


class ClusterAway(ClusterError):
    """The Kubernetes API does not answer now: try again."""


class ClusterRefused(ClusterError):
    """The Kubernetes API refused a request. ``status`` is the HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where pods are: what the shared watch of a triggerer is known by.

    :param conn_id: Airflow connection of type ``kubernetes``
    :param config_file: path of a kubeconfig on the triggerer's machine
    """

    namespace: str
    conn_id: str | None = None
    in_cluster: bool | None = None
    cluster_context: str | None = None
    config_file: str | None = None


class Cluster:
    """The client of one :class:`Place`. It belongs to one event loop.

    Purpose: whoever watches pods shares connections and credentials, which are loaded again when the cluster
    does not take them any more.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._opening = asyncio.Lock()
        self._few = asyncio.Semaphore(_AT_A_TIME)
        self._api: k8s.CoreV1Api | None = None
        self._connections = AsyncExitStack()
        self._renewed_at = 0.0

    async def close(self) -> None:
        """Close all connections; the next request opens new ones."""
        async with self._opening:
            self._api = None
            await self._connections.aclose()

    async def pod(self, name: str) -> Mapping[str, Any] | None:
        """Return a pod, ``None`` if there is none of that name."""
        return await self._find(
            lambda api: api.read_namespaced_pod(name, self.place.namespace, **_raw(_TIMEOUT_SECONDS))
        )

    async def secret(self, name: str) -> Mapping[str, Any] | None:
        """Return a Secret, ``None`` if there is none of that name."""
        return await self._find(
            lambda api: api.read_namespaced_secret(name, self.place.namespace, **_raw(_TIMEOUT_SECONDS))
        )

    async def events(self, uid: str) -> list[Mapping[str, Any]]:
        """Return the events of a pod."""
        options = {"field_selector": f"involvedObject.uid={uid}", **_raw(_TIMEOUT_SECONDS)}
        answer = await self._answer(lambda api: api.list_namespaced_event(self.place.namespace, **options))
        return list(answer.get("items") or ())

    async def pods(self, label: str, *, limit: int, next_page: str | None = None) -> Mapping[str, Any]:
        """Return one page of the pods that have a label."""
        options: dict[str, Any] = {"label_selector": label, "limit": limit, **_raw(_TIMEOUT_SECONDS)}
        if next_page:
            options["_continue"] = next_page
        return await self._answer(lambda api: api.list_namespaced_pod(self.place.namespace, **options))

    @asynccontextmanager
    async def watched_pods(
        self, label: str, version: str, *, for_seconds: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the stream of changes to the pods that have a label, after a resourceVersion."""
        options = {
            "watch": True,
            "label_selector": label,
            "resource_version": version,
            "allow_watch_bookmarks": True,
            "timeout_seconds": for_seconds,
            **_raw(_STREAM_TIMEOUT_SECONDS),
        }
        async with self._opened(
            lambda api: api.list_namespaced_pod(self.place.namespace, **options)
        ) as response:
            yield _chunks(response)

    @asynccontextmanager
    async def log(self, pod: str, **options: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the log of a container: ``container``, ``follow``, ``since_seconds``, ``tail_lines``."""
        options = {"timestamps": True, **options, **_raw(_LOG_TIMEOUT_SECONDS)}
        async with self._opened(
            lambda api: api.read_namespaced_pod_log(pod, self.place.namespace, **options)
        ) as response:
            yield _chunks(response)

    async def delete_pod(self, name: str, uid: str, *, grace_seconds: int | None = None) -> None:
        """Delete this pod, and no other one of its name. It may be gone."""
        body = k8s.V1DeleteOptions(
            grace_period_seconds=grace_seconds, preconditions=k8s.V1Preconditions(uid=uid)
        )
        await self._drop(
            lambda api: api.delete_namespaced_pod(
                name, self.place.namespace, body=body, **_raw(_TIMEOUT_SECONDS)
            )
        )

    async def delete_secret(self, name: str) -> None:
        """Delete a Secret. It may be gone."""
        await self._drop(
            lambda api: api.delete_namespaced_secret(name, self.place.namespace, **_raw(_TIMEOUT_SECONDS))
        )

    async def _find(self, ask: Ask) -> Mapping[str, Any] | None:
        try:
            return await self._answer(ask)
        except ClusterRefused as refused:
            if refused.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def _drop(self, ask: Ask) -> None:
        try:
            await self._answer(ask)
        except ClusterRefused as refused:
            if refused.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise

    async def _answer(self, ask: Ask) -> Mapping[str, Any]:
        async with self._few, self._opened(ask) as response:
            try:
                answer = json.loads(await response.read())
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise _away(error) from error
        return answer if isinstance(answer, dict) else {}

    @asynccontextmanager
    async def _opened(self, ask: Ask) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            response: aiohttp.ClientResponse = await ask(await self._connected())
        except (aiohttp.ClientError, OSError, TimeoutError, RuntimeError) as error:  # RuntimeError: closed
            raise _away(error) from error
        try:
            if not response.ok:
                await self._refuse(response)
            yield response
        finally:
            response.close() if not response.content.at_eof() else response.release()

    async def _refuse(self, response: aiohttp.ClientResponse) -> None:
        try:
            said = await response.text(errors="replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _away(error) from error
        message = f"The Kubernetes API answered {response.status}: {advised(_message(said), response.status)}"
        if response.status == HTTPStatus.UNAUTHORIZED:
            await self._renew()
        raise (
            ClusterAway(message)
            if response.status in _AWAY
            else ClusterRefused(message, status=response.status)
        )

    async def _connected(self) -> k8s.CoreV1Api:
        async with self._opening:
            if self._api is None:
                try:
                    connection = self._connections.enter_async_context((await self._hook()).get_conn())
                    self._api = k8s.CoreV1Api(await connection)
                except (AirflowException, ConfigException, OSError) as error:
                    raise ClusterRefused(f"There is no way to the cluster: {error}", status=0) from error
            return self._api

    async def _hook(self) -> AsyncKubernetesHook:
        configuration = k8s.Configuration()
        configuration.connection_pool_maxsize = settings.load().live_pod_logs + 50
        place = self.place
        hook = AsyncKubernetesHook(
            conn_id=place.conn_id,
            in_cluster=place.in_cluster,
            cluster_context=place.cluster_context,
            client_configuration=configuration,
        )
        if place.config_file is None:
            return hook
        return AsyncKubernetesHook(
            connection_extras={**await hook.get_conn_extras(), "kube_config_path": place.config_file},
            in_cluster=place.in_cluster,
            cluster_context=place.cluster_context,
            client_configuration=configuration,
        )

    async def _renew(self) -> None:
        """Load the credentials again: tokens get old. What is under way breaks, and is begun again."""
        if time.monotonic() - self._renewed_at > _RENEW_AFTER_SECONDS:
            self._renewed_at = time.monotonic()
            await self.close()


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Return what a request to the cluster returns, however long the cluster is away.

    :raises ClusterRefused: it has refused for half a minute: one that starts does so, too
    """
    refused_from: float | None = None
    said = ""
    while True:
        try:
            return await call()
        except ClusterAway as away:
            refused_from, said = None, _say(away, said)
        except ClusterRefused as refused:
            said, now = _say(refused, said), time.monotonic()
            refused_from = refused_from or now
            if now - refused_from > _REFUSED_FOR_GOOD_SECONDS:
                raise
        await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret


def _say(error: ClusterError, before: str) -> str:
    """Log an error, but not again and again: thousands of triggers may have the same one."""
    if (text := str(error)) != before:
        log.warning("%s. Trying again", text.rstrip("."))
    return text


def _raw(timeout_seconds: tuple[int, int]) -> dict[str, Any]:
    return {"_preload_content": False, "_request_timeout": timeout_seconds}


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _away(error) from error


def _away(error: Exception) -> ClusterAway:
    return ClusterAway(f"The Kubernetes API cannot be reached ({type(error).__name__}: {error})")


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200]
