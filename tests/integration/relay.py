# SPDX-License-Identifier: Apache-2.0
"""TCP relay in front of a server, which can break connections and simulate outages."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import yaml

from dev.cluster import Cluster


class Relay:
    """Relays connections from its own port to a server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.kubeconfig = Path()

    @classmethod
    @asynccontextmanager
    async def to(cls, host: str, port: int) -> AsyncIterator[Self]:
        """Return a relay to a server."""
        relay = cls(host, port)
        await relay._listen()
        try:
            yield relay
        finally:
            await relay._close()

    @classmethod
    @asynccontextmanager
    async def to_kubernetes(cls, cluster: Cluster) -> AsyncIterator[Self]:
        """Return a relay to a cluster. :attr:`kubeconfig` uses the relay."""
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        used = config["clusters"][0]["cluster"]
        url = urlsplit(used["server"])
        assert url.hostname is not None
        async with cls.to(url.hostname, url.port or 443) as relay:
            used["server"] = f"https://127.0.0.1:{relay.port}"
            used["tls-server-name"] = url.hostname
            with tempfile.TemporaryDirectory() as folder:
                relay.kubeconfig = Path(folder) / "kubeconfig"
                relay.kubeconfig.write_text(json.dumps(config))
                yield relay

    def cut(self) -> None:
        """Break all connections."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Make the server unreachable."""
        await self._close()
        yield
        await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        await asyncio.gather(*self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
        else:
            self._writers.add(far_writer)
            await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))
            self._writers.discard(far_writer)
        self._writers.discard(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
