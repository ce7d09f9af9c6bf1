# SPDX-License-Identifier: Apache-2.0
"""Client that calls an ASGI app without a server: it can send any bytes, and disconnect at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message

from airflow_asyncaction import settings
from tests.integration.signed_jobs import Answer

MOUNT = settings.load().url
GONE: Message = {"type": "http.disconnect"}
PART: Message = {"type": "http.request", "body": b"{", "more_body": True}


@dataclass
class AsgiClient:
    """Client of an app, which is mounted like in Airflow.

    :param leaves_after: number of response messages that it receives before it disconnects; ``None`` for all
    :param sent: all messages that the app has sent
    """

    app: ASGIApp
    leaves_after: int | None = None
    sent: list[Message] = field(default_factory=list)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: bytes = b"",
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        messages: Iterable[Message] | None = None,
    ) -> Answer:
        """Send one request.

        :param path: decoded path
        :param headers: headers with names in lower case
        :param messages: messages that the app receives instead of ``body``
        """
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": MOUNT + path,
            "root_path": MOUNT,
            "query_string": query,
            "headers": list(headers),
        }
        self.sent.clear()
        self.run(scope, [{"type": "http.request", "body": body}] if messages is None else messages)
        start, *rest = self.sent
        fields = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], fields, b"".join(message.get("body", b"") for message in rest))

    def run(self, scope: Mapping[str, Any], messages: Iterable[Message]) -> None:
        """Call the app once with any scope."""
        asyncio.run(self._run(dict(scope), messages))

    async def _run(self, scope: dict[str, Any], messages: Iterable[Message]) -> None:
        left = iter(messages)
        has_left = asyncio.Event()

        async def receive() -> Message:
            message = next(left, None)
            if message is not None:
                return message
            await has_left.wait()
            return GONE

        async def send(message: Message) -> None:
            self.sent.append(message)
            if self.leaves_after is not None and len(self.sent) >= self.leaves_after:
                has_left.set()
            await asyncio.sleep(0)

        await self.app(scope, receive, send)
