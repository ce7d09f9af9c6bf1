# SPDX-License-Identifier: Apache-2.0
"""Another deployment from asyncio: all triggers of a process share its connections and its token."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TypeVar

import httpx
from airflow.sdk import BaseHook
from airflow.sdk.log import amask_secret

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.remote_access import (
    Access,
    Answer,
    Call,
    Flow,
    SignIn,
    Target,
    look_call,
    look_of,
    origin_of,
    stopping,
    unreachable,
)
from airflow_asyncaction.hooks.remote_models import Look, Position
from airflow_asyncaction.hooks.remote_session import surroundings

T = TypeVar("T")

_MOST_CONNECTIONS = 20


@dataclass
class _Shared:
    access: Access
    http: httpx.AsyncClient
    signing_in: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class RemoteClient:
    """Looks at actions of another deployment, and stops them. Asks once: whoever asks has patience."""

    def __init__(self, shared: _Shared) -> None:
        self._access = shared.access
        self._http = shared.http
        self._signing_in = shared.signing_in

    async def look(self, uuid: str, position: Position) -> Look:
        """Return what is new of an action since a former look.

        :raises ServerError: the server refuses, or is away
        """
        call = look_call(self._access, uuid, position)
        return look_of(self._access, call, await self._ask(call), position)

    async def stop(self, uuid: str) -> None:
        """Ask an action to stop, or the try that follows one that has ended.

        :raises ServerError: the server refuses, or is away
        """
        flow = stopping(self._access, uuid)
        call = next(flow)
        while True:
            answer = await self._ask(call)
            try:
                call = flow.send(answer)
            except StopIteration:
                return

    async def _ask(self, call: Call) -> Answer:
        return await self._drive(self._access.exchange(call))

    async def _drive(self, flow: Flow[T]) -> T:
        answer = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = await (self._sign_in(step) if isinstance(step, SignIn) else self._send(step))

    async def _sign_in(self, asked: SignIn) -> None:
        async with self._signing_in:
            if await self._drive(self._access.sign_in(asked)):
                await amask_secret(self._access.token)

    async def _send(self, call: Call) -> Answer:
        try:
            answer = await self._http.request(
                call.method, call.url, content=call.body or None, headers=dict(call.headers)
            )
        except httpx.HTTPError as error:
            raise unreachable(call, error) from None
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(status=answer.status_code, headers=headers, body=answer.content)


_shared: dict[tuple[int, Target], _Shared] = {}


@asynccontextmanager
async def remote_client(conn_id: str) -> AsyncIterator[RemoteClient]:
    """Return a client for a connection of type ``asyncaction``.

    :raises ServerError: the connection makes no sense
    """
    connection = await BaseHook.aget_connection(conn_id)
    try:
        target = Target.of(connection, await connection.aextra_dejson())
    except ValueError as error:
        raise ServerError(f"Connection {conn_id}: {error}", code="malformed") from None
    key = (id(asyncio.get_running_loop()), target)
    if key not in _shared:
        _shared[key] = _Shared(Access(target), _http(target))
    shared = _shared[key]
    shared.users += 1
    try:
        yield RemoteClient(shared)
    finally:
        shared.users -= 1
        if not shared.users:
            del _shared[key]
            await shared.http.aclose()


def _http(target: Target) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=httpx.Timeout(target.timeout_seconds, pool=None),  # many may wait for a connection
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
        mounts={
            origin_of(url): _transport(url, target.verify) for url in (target.base_url, target.airflow_url)
        },
    )


def _transport(url: str, verify: bool | str) -> httpx.AsyncHTTPTransport:
    authorities, proxy = surroundings(url, verify)
    return httpx.AsyncHTTPTransport(
        verify=_ssl(authorities), proxy=proxy, limits=httpx.Limits(max_connections=_MOST_CONNECTIONS)
    )


def _ssl(verify: bool | str) -> ssl.SSLContext | bool:
    if isinstance(verify, bool):
        return verify
    try:
        if Path(verify).is_dir():
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise ServerError(f"The certificates in {verify} cannot be read: {error}", code="malformed") from None
