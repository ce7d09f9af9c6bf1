# SPDX-License-Identifier: Apache-2.0
"""Remote deployment: a real HTTP server with the user routes, which can be made unreachable."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.task_server import Answer, Request

LOGIN, PASSWORD = "user", "pass-word-of-the-connection"
ENDS = ("SUCCESS", "ERROR", "TIMEOUT", "STOPPED")
CREATED = "2026-11-24T18:00:00.123Z"
CONTENT = b"output of the job\n"
SCHEMA = {"type": "object", "required": ["days"]}


def refused(status: int, code: str, **more: Any) -> Answer:
    return Answer(status, {"error": code, "message": f"about {code}", **more})


def certify(path: Path) -> Path:
    """Write a self-signed certificate for this machine with its key, and return its path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, path.name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(pem))
    return path


@dataclass
class Remote:
    """One action of the deployment."""

    uuid: str
    operation: str
    arguments: Any
    status: str = "QUEUED"
    logs: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0
    more: dict[str, Any] = field(default_factory=dict)

    def say(self, *messages: str, level: str = "INFO", time_ms: int | None = None) -> None:
        self.logs += [{"time": time_ms, "level": level, "message": message} for message in messages]

    def end(self, status: str = "SUCCESS", **more: Any) -> None:
        self.more.update(more)
        self.status = status

    def short(self) -> dict[str, Any]:
        return {
            "uuid": self.uuid,
            "type": self.operation,
            "status": self.status,
            "createdAt": CREATED,
            "isDone": self.status in ENDS,
            **{name: value for name, value in self.more.items() if name != "results"},
        }

    def whole(self) -> dict[str, Any]:
        return {**self.short(), "arguments": self.arguments, "results": self.more.get("results")}

    def log(self, after: int, limit: int = 100) -> dict[str, Any]:
        first = max(after, self.dropped) + 1
        lines = self.logs[first - 1 : first - 1 + limit]
        return {
            "firstLine": first,
            "lastLine": first + len(lines) - 1,
            "lines": lines,
            "hasMore": len(self.logs) > first - 1 + len(lines),
            "isDone": self.status in ENDS,
        }


class RemoteDeployment:
    """Server that behaves like Airflow with this package to HTTP clients of users.

    :param faults: responses to the next requests; ``None`` processes the request, but closes the connection
    :param on_launch: called with each launched action
    :param certificate: file with the certificate and its key, for HTTPS
    """

    def __init__(
        self, *, on_launch: Callable[[Remote], None] | None = None, certificate: Path | None = None
    ) -> None:
        self.actions: dict[str, Remote] = {}
        self.keys: dict[str, tuple[str, Any]] = {}
        self.requests: list[Request] = []
        self.faults: list[Answer | None] = []
        self.tokens: list[str] = []
        self.is_away = False
        self.sign_in_seconds = 0.0
        self.page_size = 2
        self.has_sha256 = True
        self.content_url = "{url}/content/signed"
        self._on_launch = on_launch
        self._certificate = certificate
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if self._certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if self._certificate is None else "https"
        self.root = f"{scheme}://127.0.0.1:{self._server.server_port}/af"
        self.url = f"{self.root}/async"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def connection(self, **changes: Any) -> str:
        """Return the value for ``AIRFLOW_CONN_...``."""
        fields = {"conn_type": "asyncaction", "host": self.url, "login": LOGIN, "password": PASSWORD}
        return json.dumps({**fields, **changes})

    def seen(self, method: str, pattern: str) -> list[Request]:
        """Return the requests for a path below the root."""
        paths = [(urlsplit(request.path).path.removeprefix("/af"), request) for request in self.requests]
        return [
            request for path, request in paths if request.method == method and re.fullmatch(pattern, path)
        ]

    def action(self) -> Remote:
        """Return the only action."""
        (action,) = self.actions.values()
        return action

    def try_again(self, failed: Remote) -> Remote:
        """Start the next try of an action that has ended with ``isFinal`` false, and return it."""
        uuid = f"{failed.uuid[:-12]}{len(self.actions):012}"
        following = Remote(uuid, failed.operation, failed.arguments, status="RUNNING")
        self.actions[uuid] = following
        failed.more["nextAttempt"] = uuid
        return following

    def answer(self, request: Request) -> Answer:
        """Return the response to a request."""
        parts = urlsplit(request.path)
        path, query = parts.path.removeprefix("/af"), parse_qs(parts.query)
        if path == "/auth/token":
            return self._sign_in(json.loads(request.body))
        if path == "/async/content/signed":
            return Answer(200, text=CONTENT.decode())
        if request.headers.get("Authorization") not in [f"Bearer {token}" for token in self.tokens[-1:]]:
            return refused(401, "not_signed_in")
        for method, pattern, route in self._routes():
            found = re.fullmatch(pattern, path)
            if found and request.method == method:
                return route(request, query, *found.groups())
        return Answer(404, text="<html>Airflow</html>")

    def _routes(self) -> list[tuple[str, str, Callable[..., Answer]]]:
        return [
            ("GET", "/async/", self._operations),
            ("GET", "/async/actions", self._list),
            ("GET", "/async/actions/([^/]+)", lambda _, __, id_: self._of(id_, Remote.whole)),
            ("GET", "/async/actions/([^/]+)/logs", self._logs),
            ("GET", "/async/actions/([^/]+)/changes", self._changes),
            ("GET", "/async/actions/([^/]+)/files", lambda _, __, id_: self._of(id_, self._files)),
            ("GET", "/async/actions/([^/]+)/files/model/0", self._content),
            ("PUT", "/async/actions/([^/]+)/stop", self._stop),
            ("PUT", "/async/([^/]+)", self._launch),
        ]

    def _sign_in(self, fields: Mapping[str, Any]) -> Answer:
        time.sleep(self.sign_in_seconds)
        if fields != {"username": LOGIN, "password": PASSWORD}:
            return Answer(401, {"detail": "Invalid credentials"})
        self.tokens.append(f"token-{len(self.tokens)}-of-this-deployment")
        return Answer(201, {"access_token": self.tokens[-1]})

    def _operations(self, _: Request, query: Mapping[str, Any]) -> Answer:
        full = {"etl.load": {"id": "etl.load", "type": "etl", "input": SCHEMA, "isPaused": False}}
        return Answer(text=json.dumps(full if query.get("full") == ["true"] else list(full)))

    def _launch(self, request: Request, query: Mapping[str, Any], operation: str) -> Answer:
        if operation != "etl.load":
            return refused(404, "no_such_operation")
        arguments = json.loads(request.body)
        if "days" not in arguments:
            return refused(400, "invalid_input", path="$.days")
        key = request.headers["Idempotency-Key"]
        with self._lock:
            if key in self.keys:
                known, launched_with = self.keys[key]
                if launched_with != arguments:
                    return refused(422, "idempotency_key_reused")
                return Answer(202, self.actions[known].whole())
            uuid = f"00000000-0000-4000-8000-{len(self.actions):012}"
            action = Remote(uuid, operation, arguments)
            if "schedule" in query:
                action.status = "SCHEDULED"
                action.more["scheduledMs"] = query["schedule"][0]
            self.actions[uuid] = action
            self.keys[key] = (uuid, arguments)
        if self._on_launch is not None:
            self._on_launch(action)
        return Answer(202, action.whole())

    def _list(self, _: Request, query: Mapping[str, Any]) -> Answer:
        found = [
            action
            for action in reversed(self.actions.values())
            if action.status in query.get("status", [action.status])
        ]
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.page_size
        page = [action.short() for action in found[start:end]]
        return Answer(200, {"actions": page, "nextCursor": str(end) if end < len(found) else None})

    def _of(self, uuid: str, show: Callable[[Remote], dict[str, Any]]) -> Answer:
        action = self.actions.get(uuid)
        return refused(404, "no_such_action") if action is None else Answer(200, show(action))

    def _logs(self, _: Request, query: Mapping[str, Any], uuid: str) -> Answer:
        return self._of(uuid, lambda action: action.log(int(query["after"][0])))

    def _changes(self, request: Request, query: Mapping[str, Any], uuid: str) -> Answer:
        after = int(query["afterLine"][0])
        answer = self._of(
            uuid,
            lambda action: {
                "action": action.short(),
                "logs": action.log(after, limit=3),
                "reports": {"reports": [{"id": 7}], "hasMore": False},
            },
        )
        digest = hashlib.sha256(json.dumps(answer.fields).encode())
        etag = f'"{base64.b64encode(digest.digest()).decode()}"'
        if request.headers.get("If-None-Match") == etag:
            return Answer(304)
        return Answer(answer.status, answer.fields, headers={"ETag": etag})

    def _files(self, _: Remote) -> dict[str, Any]:
        model = {
            "property": "model",
            "index": 0,
            "role": "output",
            "name": "model.bin",
            "size": len(CONTENT),
            "mimetype": "application/octet-stream",
            "hash": hashlib.md5(CONTENT, usedforsecurity=False).hexdigest(),
            "sha256": hashlib.sha256(CONTENT).hexdigest() if self.has_sha256 else None,
        }
        return {"files": [model]}

    def _content(self, _: Request, __: Mapping[str, Any], ___: str) -> Answer:
        return Answer(302, headers={"Location": self.content_url.format(url=self.url)})

    def _stop(self, _: Request, __: Mapping[str, Any], uuid: str) -> Answer:
        action = self.actions.get(uuid)
        if action is not None and action.status in ENDS:
            if action.more.get("isFinal", True) or "nextAttempt" in action.more:
                return refused(409, "already_ended")
            action.more["isFinal"] = True
        elif action is not None:
            action.end("STOPPED", stopReason="Requested", errorName="Requested", errorMessage="asked to stop")
        return self._of(uuid, Remote.whole)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.command, self.path, dict(self.headers), body)
                mine.requests.append(request)
                if mine.is_away:
                    self._send(Answer(503, text="away"))
                elif mine.faults:
                    fault = mine.faults.pop(0)
                    if fault is not None:
                        self._send(fault)
                    else:
                        mine.answer(request)  # processed, but the response is lost
                        self.close_connection = True
                else:
                    self._send(mine.answer(request))

            def _send(self, answer: Answer) -> None:
                sent = answer.text.encode() if answer.fields is None else json.dumps(answer.fields).encode()
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(sent))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_POST = do_PUT = _answer  # noqa: N815 - as http.server names them

            def log_message(self, *_: object) -> None:
                """Do not log requests."""

        return Handler
