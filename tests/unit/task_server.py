# SPDX-License-Identifier: Apache-2.0
"""Task server: a real HTTP server with scripted responses, for tests of hooks."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int = 200
    fields: Mapping[str, Any] | None = None
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One received request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class TaskServer:
    """Returns its responses in order, and repeats the last one.

    :param post_answers: responses to POST requests; by default, these are among the others
    """

    answers: list[Answer]
    post_answers: list[Answer] | None = None
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/async"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                mine.requests.append(Request(self.command, self.path, dict(self.headers), body))
                answers = (mine.post_answers if self.command == "POST" else None) or mine.answers
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                sent = answer.text.encode() if answer.fields is None else json.dumps(answer.fields).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(sent)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_POST = _answer  # noqa: N815 - as http.server names them

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        return Handler
