# SPDX-License-Identifier: Apache-2.0
"""Kubernetes API client of a triggerer: one asyncio client for all pods of a namespace."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk.exceptions import AirflowException
from kubernetes_asyncio import client as k8s
from kubernetes_asyncio.config import ConfigException

from airflow_asyncaction import settings
from airflow_asyncaction.retrying import as_sentence, pause_seconds
from airflow_asyncaction.runners.pods.api_requests import (
    ApiRequest,
    ClusterError,
    ClusterRefused,
    PodRequests,
    describe_failure,
    describe_unreachable,
    parse_response,
)
from airflow_asyncaction.runners.pods.spec import PodSecrets, parse_secrets

log = logging.getLogger(__name__)

REFUSED_FOR = timedelta(seconds=30)
"""How long refused requests are retried: a cluster that is starting refuses requests, too."""

_LOG_SILENCE_SECONDS = 3600  # the watch sees when a silent container ends
_CONCURRENT_REQUESTS = 8
_CONNECTIONS_BESIDE_LOGS = 50
_RENEW_AFTER_SECONDS = 5.0
_PAUSE_SECONDS = 2.0
_NO_RESPONSE = (aiohttp.ClientError, OSError, TimeoutError)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClusterNamespace:
    """A namespace of a cluster, and how to connect to it. Triggers of the same one share its watch.

    :param conn_id: Airflow connection of type ``kubernetes``
    :param config_file: path of a kubeconfig on the triggerer's machine
    """

    namespace: str
    conn_id: str | None = None
    in_cluster: bool | None = None
    cluster_context: str | None = None
    config_file: str | None = None


class AsyncPodApi:
    """Sends requests for the pods of one :class:`ClusterNamespace`. It belongs to one event loop.

    Purpose: all triggers of the namespace share connections and credentials. When the cluster no longer
    accepts the credentials, they are loaded again.
    """

    def __init__(self, target: ClusterNamespace) -> None:
        self.target = target
        self.requests = PodRequests(target.namespace, _LOG_SILENCE_SECONDS)
        self._connecting = asyncio.Lock()
        self._slots = asyncio.Semaphore(_CONCURRENT_REQUESTS)
        self._client: k8s.CoreV1Api | None = None
        self._connections = AsyncExitStack()
        self._renewed_at = 0.0

    async def close(self) -> None:
        """Close all connections; the next request opens new ones."""
        async with self._connecting:
            self._client = None
            await self._connections.aclose()

    async def send(self, request: ApiRequest) -> Any:
        """Return the response's JSON.

        :raises ClusterError: the request failed
        """
        async with self._slots, self._response(request) as response:
            try:
                body = await response.read()
            except _NO_RESPONSE as error:
                raise describe_unreachable(error) from error
        return parse_response(request, response.status, body)

    @asynccontextmanager
    async def open_stream(self, request: ApiRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a response whose body is streamed.

        :raises ClusterError: the request failed, or the connection broke
        """
        async with self._response(request) as response:
            yield _read_chunks(response)

    @asynccontextmanager
    async def _response(self, request: ApiRequest) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a response that is successful, or whose status the request ignores."""
        try:
            response: aiohttp.ClientResponse = await request.call(await self._connect())
        except (*_NO_RESPONSE, RuntimeError) as error:  # RuntimeError: the session was closed
            raise describe_unreachable(error) from error
        try:
            if not response.ok and response.status not in request.ignored:
                await self._raise_for(response)
            yield response
        finally:
            response.close() if not response.content.at_eof() else response.release()

    async def _raise_for(self, response: aiohttp.ClientResponse) -> None:
        try:
            body = await response.read()
        except _NO_RESPONSE as error:
            raise describe_unreachable(error) from error
        if response.status == HTTPStatus.UNAUTHORIZED:
            await self._renew_credentials()
        raise describe_failure(response.status, body)

    async def _connect(self) -> k8s.CoreV1Api:
        async with self._connecting:
            if self._client is None:
                try:
                    connection = (await self._hook()).get_conn()
                    self._client = k8s.CoreV1Api(await self._connections.enter_async_context(connection))
                except (AirflowException, ConfigException, OSError) as error:
                    message = (
                        f"The triggerer has no usable configuration of the cluster: {error}. It needs the"
                        " same kubernetes_conn_id, config_file or in_cluster as the worker"
                    )
                    raise ClusterRefused(message, status=0) from error
            return self._client

    async def _hook(self) -> AsyncKubernetesHook:
        configuration = k8s.Configuration()
        configuration.connection_pool_maxsize = settings.load().live_pod_logs + _CONNECTIONS_BESIDE_LOGS
        target = self.target
        options: dict[str, Any] = {
            "in_cluster": target.in_cluster,
            "cluster_context": target.cluster_context,
            "client_configuration": configuration,
        }
        hook = AsyncKubernetesHook(conn_id=target.conn_id, **options)
        if target.config_file is None:
            return hook
        extras = {**await hook.get_conn_extras(), "kube_config_path": target.config_file}
        return AsyncKubernetesHook(connection_extras=extras, **options)

    async def _renew_credentials(self) -> None:
        """Load the credentials again, since tokens expire. Open requests fail and are retried."""
        if time.monotonic() - self._renewed_at > _RENEW_AFTER_SECONDS:
            self._renewed_at = time.monotonic()
            await self.close()


async def retry_requests(call: Callable[[], Awaitable[T]]) -> T:
    """Return the result of requests to a cluster; wait without limit while it is unavailable.

    :raises ClusterRefused: the cluster has refused them for ``REFUSED_FOR``
    """
    refused_since: float | None = None
    logged = ""
    while True:
        try:
            return await call()
        except ClusterError as error:
            now = time.monotonic()
            refused_since = (refused_since or now) if isinstance(error, ClusterRefused) else None
            if refused_since is not None and now - refused_since > REFUSED_FOR.total_seconds():
                raise
            if (text := str(error)) != logged:  # once: thousands of triggers may have the same error
                logged = text
                log.warning("%s Retrying", as_sentence(text))
            await asyncio.sleep(pause_seconds(1, first_seconds=_PAUSE_SECONDS))


async def read_pod_secrets(api: AsyncPodApi, pod_name: str) -> PodSecrets | None:
    """Return the secrets of a pod's action, which must not be in the arguments of a trigger.

    ``None`` if the pod is gone.

    :raises ClusterError: they cannot be read
    """
    refusal: ClusterRefused | None = None
    secret, pod = None, None
    try:
        secret = await api.send(api.requests.read_secret(pod_name))
    except ClusterRefused as refused:
        refusal = refused  # the secrets may be in the pod itself
    if secret is None:
        pod = await api.send(api.requests.read_pod(pod_name))
        if pod is None:
            return None
    try:
        return parse_secrets(pod or {}, secret)
    except ValueError:
        if refusal is not None:
            raise refusal from None
        return None


async def _read_chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except _NO_RESPONSE as error:
        raise describe_unreachable(error) from error
