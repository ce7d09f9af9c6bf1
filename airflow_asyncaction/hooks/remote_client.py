# SPDX-License-Identifier: Apache-2.0
"""Another deployment from asyncio: all triggers of a process share its connections and its token."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
from airflow.sdk import BaseHook
from airflow.sdk.log import amask_secret

from airflow_asyncaction.exceptions import ServerError, ServerUnreachable
from airflow_asyncaction.hooks.remote_access import (
    Access,
    Answer,
    Call,
    Target,
    look_call,
    look_of,
    quoted,
    read,
    refusal,
)
from airflow_asyncaction.hooks.remote_words import Look, Position

T = TypeVar("T")

_MOST_CONNECTIONS = 20
_CONFLICT = 409


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
        return look_of(self._access, call, await self._exchange(call), position)

    async def stop(self, uuid: str) -> None:
        """Ask an action to stop, unless it has ended.

        :raises ServerError: the server refuses, or is away
        """
        call = self._access.call("PUT", quoted("actions", uuid, "stop"))
        answer = await self._exchange(call)
        if answer.status != _CONFLICT or refusal(call, answer).code != "already_ended":
            read(call, answer)

    async def _exchange(self, call: Call) -> Answer:
        if self._access.needs_token:
            async with self._signing_in:  # a thousand triggers that start at once need one token
                if self._access.needs_token:
                    await self._drive(self._access.sign_in())
        return await self._drive(self._access.exchange(call))

    async def _drive(self, flow: Generator[Call, Answer, T]) -> T:
        known = self._access.token
        sent = next(flow)
        while True:
            answer = await self._send(sent)
            try:
                sent = flow.send(answer)
            except StopIteration as end:
                result: T = end.value
                if self._access.token != known:
                    await amask_secret(self._access.token)
                return result

    async def _send(self, call: Call) -> Answer:
        try:
            answer = await self._http.request(
                call.method, call.url, content=call.body or None, headers=dict(call.headers)
            )
        except httpx.HTTPError as error:
            reason = type(error).__name__
            # Not "from error": it has the request, and that the token.
            raise ServerUnreachable(f"{self._access.target.base_url} cannot be reached ({reason})") from None
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
        verify=_ssl(target.verify),
        timeout=httpx.Timeout(target.timeout_seconds, pool=None),  # many may wait for a connection
        limits=httpx.Limits(max_connections=_MOST_CONNECTIONS),
        follow_redirects=False,
    )


def _ssl(verify: bool | str) -> ssl.SSLContext | bool:
    if isinstance(verify, bool):
        return verify
    if Path(verify).is_dir():
        return ssl.create_default_context(capath=verify)
    return ssl.create_default_context(cafile=verify)
