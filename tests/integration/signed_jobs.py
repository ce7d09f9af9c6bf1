# SPDX-License-Identifier: Apache-2.0
"""Signed jobs: requests over real HTTP, with or without signatures, sent unchanged."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import urlsplit

from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.runner_messages import RunnerMessage, message_to_json
from airflow_asyncaction.protocol.signing import (
    JOB_ID_HEADER,
    TIME_HEADER,
    V1_HEADER,
    Content,
    Signer,
    sign_v1,
    signed_headers,
)
from airflow_asyncaction.protocol.tasks import (
    TASK_ID_HEADER,
    TASK_NONCE_HEADER,
    ActionSpec,
    TaskCredentials,
    TaskView,
)
from tests.integration.running_tasks import RunningTask

_IDLE_SECONDS = 2.0
_SENT_ANYHOW = (BrokenPipeError, ConnectionResetError)


@dataclass(frozen=True)
class Answer:
    """A response of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        assert self.headers["content-type"] == "application/json", self
        fields = json.loads(self.body)
        assert isinstance(fields, dict)
        return fields

    @property
    def error(self) -> tuple[int, str]:
        """Status and error code of a refusal. Its body must contain a message."""
        assert isinstance(self.fields["message"], str)
        return self.status, self.fields["error"]


class HookClient:
    """Sends requests to one hook in one thread, over one connection."""

    def __init__(self, hook: str) -> None:
        parts = urlsplit(hook)
        assert parts.hostname is not None
        self.hook = hook
        self._prefix = parts.path
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        self._used_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request with an unchanged path and body. An iterable body is sent in chunks."""
        is_chunked = not isinstance(body, bytes)
        if time.monotonic() > self._used_at + _IDLE_SECONDS:
            self._connection.close()  # the server may close it at the same moment
        self._used_at = time.monotonic()
        with suppress(*_SENT_ANYHOW):  # the response, which arrived before the end of the body, says why
            self._connection.request(
                method,
                self._prefix + path,
                body=body or None,
                headers={**(headers or {}), **({"Transfer-Encoding": "chunked"} if is_chunked else {})},
                encode_chunked=is_chunked,
            )
        response = self._connection.getresponse()
        answer = _answer(response)
        if response.will_close:
            self._connection.close()
        return answer


def sent_raw(hook: str, method: str, path: str, header_lines: Iterable[str], body: bytes = b"") -> Answer:
    """Send an invalid HTTP request over a new connection. Text is encoded as Latin-1."""
    parts = urlsplit(hook)
    lines = [f"{method} {parts.path}{path or ('' if parts.path else '/')} HTTP/1.1", *header_lines]
    if not any(line.lower().startswith("host:") for line in lines):
        lines.append(f"Host: {parts.netloc}")
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        return _answer(response)


def _answer(response: http.client.HTTPResponse) -> Answer:
    content = response.read()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_nonce() -> str:
    return secrets.token_urlsafe(18)


def encoded(body: bytes | Mapping[str, Any]) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@dataclass(frozen=True)
class SignedJob:
    """A job and its task. Each signs the requests to its own routes with its own secret."""

    info: JobInfo
    task: TaskCredentials
    client: HookClient = field(repr=False)

    @classmethod
    def without_task(cls, info: JobInfo, client: HookClient) -> SignedJob:
        """Return a job of the test server, which has no tasks."""
        return cls(info, TaskCredentials(info.job_id, "unknown"), client)

    def forged(self, *, job_id: str | None = None, secrets_of: SignedJob | None = None) -> SignedJob:
        """Return the same job with the id or the secrets of another action."""
        job_id, other = JobId(job_id or self.info.job_id), secrets_of or self
        info = replace(self.info, job_id=job_id, secret_key=other.info.secret_key)
        return replace(self, info=info, task=TaskCredentials(job_id, other.task.secret_key))

    def swapped(self) -> SignedJob:
        """Return a job that signs with its task's key, and a task that signs with its job's secret."""
        info = replace(self.info, secret_key=self.task.secret_key)
        return replace(self, info=info, task=replace(self.task, secret_key=self.info.secret_key))

    def signer(self, path: str) -> Signer:
        """Return the credentials for a route."""
        return self.task if path.startswith("/task/") else self.info

    def headers(
        self,
        method: str,
        path: str,
        body: bytes,
        *,
        query: str = "",
        nonce: str | None = None,
        time_ms: int | None = None,
    ) -> dict[str, str]:
        """Return the headers of a request signed with v2."""
        return signed_headers(
            self.signer(path),
            Content(method, path, query, body),
            time_ms=now_ms() if time_ms is None else time_ms,
            nonce=nonce or new_nonce(),
        )

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] = b"",
        *,
        query: str = "",
        nonce: str | None = None,
        time_ms: int | None = None,
    ) -> Answer:
        """Send a request signed with v2."""
        octets = encoded(body)
        headers = self.headers(method, path, octets, query=query, nonce=nonce, time_ms=time_ms)
        return self.client.send(method, path + (f"?{query}" if query else ""), octets, headers)

    def send_v1(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] = b"",
        *,
        time_text: str | None = None,
        job_id: str | None = None,
    ) -> Answer:
        """Send a request signed with v1."""
        text = time_text or str(now_ms())
        headers = {
            JOB_ID_HEADER: job_id or self.info.job_id,
            TIME_HEADER: text,
            V1_HEADER: sign_v1(self.signer(path).secret_key, text),
        }
        return self.client.send(method, path, encoded(body), headers)

    def report(self, *, nonce: str | None = None, **fields: Any) -> Answer:
        """Send a report with these fields."""
        return self.send("POST", "/status", fields, nonce=nonce)

    def view(self, after: int = 0) -> TaskView:
        """Return the action as its task sees it."""
        answer = self.send("GET", "/task/action", query=f"after={after}")
        assert answer.status == 200, answer
        return TaskView.from_json(answer.fields)

    def send_message(self, message: RunnerMessage) -> TaskView:
        """Send a runner message."""
        answer = self.send("POST", "/task/message", message_to_json(message))
        assert answer.status == 200, answer
        return TaskView.from_json(answer.fields)

    def on(self, client: HookClient) -> SignedJob:
        """Return the same job on another connection, or at another server."""
        return replace(self, client=client)


def register(task: RunningTask, client: HookClient, nonce: str, **spec: Any) -> Answer:
    """Register an action with the task route."""
    wanted = ActionSpec(**{"type": "test", "runner": "local", **spec})
    return sent_registration(client, task.ti_id, nonce, {"spec": wanted.to_json()})


def sent_registration(client: HookClient, ti_id: str, nonce: str, fields: Mapping[str, Any]) -> Answer:
    """Send a registration with any content."""
    proof = {TASK_ID_HEADER: ti_id, TASK_NONCE_HEADER: nonce}
    return client.send("POST", "/task/register", encoded(fields), proof)


def registered(task: RunningTask, client: HookClient, **spec: Any) -> SignedJob:
    """Register an action as a task does, and return its job."""
    return job_of(register(task, client, task.commit(), **spec), client)


def job_of(answer: Answer, client: HookClient) -> SignedJob:
    """Return the job of a registered action."""
    assert answer.status == 200, answer
    fields = answer.fields
    info = JobInfo(job_id=JobId(fields["actionId"]), secret_key=fields["secretKey"], hook_url=client.hook)
    return SignedJob(info, TaskCredentials(info.job_id, fields["taskKey"]), client)


NewJob = Callable[..., SignedJob]
"""Registers an action of a new task with these fields of :class:`ActionSpec`, and returns its job."""
