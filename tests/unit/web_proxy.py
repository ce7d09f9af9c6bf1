# SPDX-License-Identifier: Apache-2.0
"""Real web proxy: forwards requests, opens tunnels, and resolves hosts that DNS does not know."""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

_HOP_BY_HOP = ("connection", "keep-alive", "proxy-authorization", "proxy-connection", "transfer-encoding")


@dataclass(frozen=True)
class Proxied:
    """One request, as the proxy received it."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass
class WebProxy:
    """Proxy that forwards requests for the names in ``hosts``.

    :param hosts: port of 127.0.0.1 by host name
    :param credentials: ``user:password`` that it requires
    """

    hosts: Mapping[str, int] = field(default_factory=dict)
    credentials: str | None = None
    requests: list[Proxied] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = _Listener(self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.place = f"127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def port_of(self, host: str | None, port: int | None) -> int:
        return self.hosts.get(host or "", port or 0)

    def lets_in(self, headers: Mapping[str, str]) -> bool:
        if self.credentials is None:
            return True
        wanted = "Basic " + base64.b64encode(self.credentials.encode()).decode()
        return headers.get("Proxy-Authorization") == wanted


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: WebProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        headers = dict(self.headers)
        self.server.proxy.requests.append(Proxied(self.command, self.path, headers))
        if not self.server.proxy.lets_in(headers):
            self._answer(407, b"<html>Who are you?</html>")
        elif self.command == "CONNECT":
            self._tunnel()
        else:
            self._forward()

    do_GET = do_HEAD = do_POST = do_PUT = do_CONNECT = handle_request  # noqa: N815

    def _forward(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
        port = self.server.proxy.port_of(url.hostname, url.port)
        upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with contextlib.closing(upstream):
            try:
                path = url.path + (f"?{url.query}" if url.query else "")
                upstream.request(self.command, path, body or None, headers)
                answer = upstream.getresponse()
                content = answer.read()
            except OSError:
                self._answer(502, b"<html>It is not there</html>")
                return
            self._answer(answer.status, content, dict(answer.getheaders()))

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _tunnel(self) -> None:
        host, _, port = self.path.rpartition(":")
        try:
            upstream = socket.create_connection(("127.0.0.1", self.server.proxy.port_of(host, int(port))))
        except OSError:
            self._answer(502, b"")
            return
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        with upstream:
            _splice(self.connection, upstream)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


def _splice(one: socket.socket, other: socket.socket) -> None:
    ends: dict[Any, socket.socket] = {one: other, other: one}
    with contextlib.suppress(OSError):
        while True:
            for source in select.select(list(ends), [], [])[0]:
                data = source.recv(65536)
                if not data:
                    return
                ends[source].sendall(data)
