# SPDX-License-Identifier: Apache-2.0
"""RemoteClient: sends requests to another deployment from asyncio, with httpx.

All triggers of a process that have the same connection share its HTTP connections and its token.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TypeVar

import httpx
from airflow.sdk import BaseHook
from airflow.sdk.log import amask_secret

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.remote_api import Exchange, RemoteApi, RemoteRequest, unreachable
from airflow_asyncaction.hooks.remote_auth import TOKEN_HEADERS, Authorize, RemoteAuth
from airflow_asyncaction.hooks.remote_connection import RemoteConnection, origin_of
from airflow_asyncaction.hooks.remote_models import PollResult, Watch
from airflow_asyncaction.hooks.remote_session import environment_of
from airflow_asyncaction.protocol.responses import ServerResponse

T = TypeVar("T")

_MAX_CONNECTIONS = 20


class HttpxAuth(httpx.Auth):
    """Authenticates the requests of a client. Only one asyncio task at a time fetches a token."""

    def __init__(self, auth: RemoteAuth) -> None:
        self._auth = auth
        self._lock = asyncio.Lock()

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Yield the request, and before it, where necessary, one that fetches a token."""
        status: int | None = None
        steps = self._auth.flow()
        while True:
            try:
                step = steps.send(status)
            except StopIteration:
                return
            status = None
            if isinstance(step, Authorize):
                if step.header is not None:
                    request.headers["Authorization"] = step.header
                status = (yield request).status_code
                continue
            async with self._lock:
                if self._auth.is_needed(step):
                    response = yield self._token_request(request)
                    await response.aread()
                    await amask_secret(self._auth.accept_token(_server_response(response)))

    def _token_request(self, request: httpx.Request) -> httpx.Request:
        return httpx.Request(
            "POST",
            self._auth.token_url,
            content=self._auth.token_request_body(),
            headers=TOKEN_HEADERS,
            extensions=request.extensions,  # its timeouts
        )


class RemoteClient:
    """Polls and stops actions of another deployment. It sends each request once: callers retry."""

    def __init__(self, connection: RemoteConnection) -> None:
        self._api = RemoteApi(connection)
        self._http = _new_http(connection)
        self.users = 0

    async def poll(self, watch: Watch) -> PollResult:
        """Return what is new about an action since the last poll.

        :raises ServerError: the server refuses, or cannot be reached
        """
        return await self._run(self._api.poll(watch))

    async def stop(self, uuid: str) -> None:
        """Ask an action to stop; if it has ended, ask its last retry instead.

        :raises ServerError: the server refuses, or cannot be reached
        """
        await self._run(self._api.stop(uuid))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _run(self, exchange: Exchange[T]) -> T:
        try:
            request = next(exchange)
            while True:
                request = exchange.send(await self._send(request))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, request: RemoteRequest) -> ServerResponse:
        try:
            response = await self._http.request(
                request.method, request.url, content=request.body or None, headers=dict(request.headers)
            )
        except httpx.HTTPError as error:
            raise unreachable(str(error.request.url), error, body_bytes=len(request.body)) from None
        return _server_response(response)


_clients: dict[tuple[int, RemoteConnection], RemoteClient] = {}


@asynccontextmanager
async def remote_client(conn_id: str) -> AsyncIterator[RemoteClient]:
    """Return the client for a connection of type ``asyncaction``, shared by its concurrent users.

    :raises ServerError: the connection is invalid
    """
    airflow_connection = await BaseHook.aget_connection(conn_id)
    try:
        extra = await airflow_connection.aextra_dejson()
        connection = RemoteConnection.from_airflow(airflow_connection, extra)
    except ValueError as error:
        raise ServerError(f"Connection {conn_id} is invalid: {error}", code="malformed") from None
    key = (id(asyncio.get_running_loop()), connection)
    if key not in _clients:
        _clients[key] = RemoteClient(connection)
    client = _clients[key]
    client.users += 1
    try:
        yield client
    finally:
        client.users -= 1
        if not client.users:
            del _clients[key]
            await client.close()


def _new_http(connection: RemoteConnection) -> httpx.AsyncClient:
    urls = (connection.base_url, connection.airflow_url)
    return httpx.AsyncClient(
        auth=HttpxAuth(RemoteAuth(connection)),
        timeout=httpx.Timeout(connection.timeout_seconds, pool=None),  # many may wait for a connection
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
        mounts={origin_of(url): _transport(url, connection.verify) for url in urls},
    )


def _transport(url: str, verify: bool | str) -> httpx.AsyncHTTPTransport:
    authorities, proxy = environment_of(url, verify)
    return httpx.AsyncHTTPTransport(
        verify=_ssl(authorities), proxy=proxy, limits=httpx.Limits(max_connections=_MAX_CONNECTIONS)
    )


def _ssl(verify: bool | str) -> ssl.SSLContext | bool:
    if isinstance(verify, bool):
        return verify
    try:
        if Path(verify).is_dir():
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise ServerError(
            f"The CA certificates in {verify} cannot be read: {error}", code="malformed"
        ) from None


def _server_response(response: httpx.Response) -> ServerResponse:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return ServerResponse(response.status_code, response.content, headers)
