# SPDX-License-Identifier: Apache-2.0
"""TaskHook: HTTP client to the task routes, which register, follow and end the action of a task."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from http import HTTPStatus
from typing import Any, cast

import requests
from airflow.sdk import BaseHook

from airflow_asyncaction import settings
from airflow_asyncaction.exceptions import ServerError, ServerUnreachable, Superseded
from airflow_asyncaction.hooks.known_secrets import current_masker, never_share, shared_secrets
from airflow_asyncaction.protocol.files import FileReference
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.masking import bounded
from airflow_asyncaction.protocol.reports import LARGEST_BODY_BYTES
from airflow_asyncaction.protocol.responses import ServerResponse, is_hang_up, too_large
from airflow_asyncaction.protocol.runner_messages import RunnerMessage, mask_message, message_to_json
from airflow_asyncaction.protocol.signing import Content, Signer, signed_headers
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.protocol.tasks import (
    TASK_ID_HEADER,
    TASK_NONCE_HEADER,
    ActionSpec,
    Deferral,
    TaskCredentials,
    TaskView,
)
from airflow_asyncaction.retrying import as_sentence, retrying

_TIMEOUT_SECONDS = (5, 30)
_SHORT_MESSAGE_CHARS = 200
_NO_SUCH_ROUTE = "no_such_route"
_IF_FOREIGN = "A proxy may have responded, or the API server does not load the airflow-asyncaction plugin"
_IF_GATEWAY = "If this is the URL of a gateway, set [asyncaction] task_url to that of the API server"

PATIENCE = timedelta(minutes=10)
"""How long to retry a message that must not be lost while the server is unavailable."""


@dataclass(frozen=True)
class Registration:
    """The result of registering a task.

    :param info: what the job receives
    :param credentials: those of the task, which the job must not receive
    :param was_launched: whether an earlier process of this task already launched the job
    """

    info: JobInfo
    credentials: TaskCredentials
    was_launched: bool


class TaskHook(BaseHook):
    """HTTP client to the routes that tasks call. It belongs to one thread: see :meth:`clone`.

    :param base_url: of the task routes, such as ``http://airflow:8080/async``
    :param hook_url: URL of the job routes for jobs that it registers; by default the same
    :param ti_id: the task instance on whose behalf it sends: its messages are refused once another process
        adopts the action
    """

    def __init__(self, base_url: str, *, hook_url: str | None = None, ti_id: str | None = None) -> None:
        super().__init__()
        self.base_url = base_url.rstrip("/")
        self.hook_url = hook_url or self.base_url
        self.ti_id = ti_id
        self._session = requests.Session()
        self._session.trust_env = False  # the API server is not behind the worker's web proxy
        self._clock_offset_ms = 0
        self._shared_secrets: frozenset[str] | None = None

    def clone(self) -> TaskHook:
        """Return a hook for another thread."""
        clone = TaskHook(self.base_url, hook_url=self.hook_url, ti_id=self.ti_id)
        clone._shared_secrets = self._shared_secrets
        return clone

    def register(
        self,
        ti_id: str,
        nonce: str,
        spec: ActionSpec,
        *,
        resumes: str | None = None,
    ) -> Registration:
        """Register the action of a running task instance, and return what the task and its job need.

        The task state store must hold the sha256 of ``nonce``. The same nonce returns the same action. The
        request includes the secrets that Airflow masks in this process. The server masks them in the job's
        reports.

        :param resumes: id of the action with which the task was deferred, if this process resumes it
        :raises ServerError: the server refuses
        """
        proof = {TASK_ID_HEADER: ti_id, TASK_NONCE_HEADER: nonce}
        known = shared_secrets()
        wanted = replace(spec, secrets=self._bounded(known)).to_json()
        body = _encode({"spec": wanted, "resumes": resumes})
        answer = self._send("POST", "/task/register", body, lambda: proof, PATIENCE)
        info = JobInfo(
            job_id=JobId(answer["actionId"]),
            secret_key=answer["secretKey"],
            hook_url=self.hook_url,
            orchestrator=answer["orchestrator"],
            arguments=spec.arguments,
            traceparent=spec.traceparent,
        )
        credentials = TaskCredentials(info.job_id, answer["taskKey"])
        self._shared_secrets = known
        never_share(info.secret_key, credentials.secret_key)
        return Registration(info, credentials, was_launched=answer["wasLaunched"])

    def read(
        self, credentials: TaskCredentials, *, after_line: int = 0, patience: timedelta = timedelta(0)
    ) -> TaskView:
        """Return the current state of the action, with its log lines after the given one.

        :raises ServerError: the server refuses
        """
        content = Content("GET", "/task/action", f"after={after_line}")
        return TaskView.from_json(self._send_signed(credentials, content, patience))

    def wait_for_change(
        self, credentials: TaskCredentials, *, after_line: int, version: str, wait_seconds: float
    ) -> TaskView | None:
        """Wait for another version of the action, and return it with its log lines after the given one.

        Return ``None`` if nothing changed. A server that does not wait returns the action at once.

        :param version: the last known ``TaskView.version``
        :param wait_seconds: at most ``LONGEST_WAIT_SECONDS``
        :raises ServerError: the server refuses
        """
        query = f"after={after_line}&version={version}&wait={wait_seconds:.1f}"
        fields = self._send_signed(credentials, Content("GET", "/task/action", query), timedelta(0))
        return TaskView.from_json(fields) if fields else None

    def send_message(
        self, credentials: TaskCredentials, message: RunnerMessage, *, patience: timedelta = PATIENCE
    ) -> TaskView:
        """Report what happened to the job, with secrets masked, and return the action's new state.

        An exit that is too large for the server (``[asyncaction] max_body_bytes``) is sent without output.

        :raises ServerError: the server refuses
        """
        with suppress(ServerError):  # the message is masked here anyway, and the next one tries again
            self.share_secrets(credentials, patience=timedelta(0))
        message = mask_message(message, current_masker())
        try:
            return self._send_message(credentials, message, patience)
        except ServerError as error:
            is_too_large = error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            if not (is_too_large and isinstance(message, Exit) and message.tail):
                raise
            self.log.warning("%s Sending the exit without the last lines of output.", as_sentence(str(error)))
        text = None if message.message is None else message.message[:_SHORT_MESSAGE_CHARS]
        return self._send_message(credentials, replace(message, message=text, tail=()), patience)

    def _send_message(
        self, credentials: TaskCredentials, message: RunnerMessage, patience: timedelta
    ) -> TaskView:
        query = f"ti={self.ti_id}" if self.ti_id else ""
        content = Content("POST", "/task/message", query, body=_encode(message_to_json(message)))
        return TaskView.from_json(self._send_signed(credentials, content, patience))

    def share_secrets(self, credentials: TaskCredentials, *, patience: timedelta = PATIENCE) -> None:
        """Send the secrets that this process learned since they were last sent, if any.

        :raises ServerError: the server refuses
        """
        known = shared_secrets()
        if self._shared_secrets is None or known <= self._shared_secrets:  # no action, or no new secrets
            return
        new = self._bounded(known - self._shared_secrets)
        self.send(credentials, "POST", "/task/secrets", _encode({"secrets": new}), patience=patience)
        self._shared_secrets |= known

    def _bounded(self, known: frozenset[str]) -> Sequence[str]:
        kept = bounded(known)
        if len(kept) < len(known):
            self.log.warning(
                "The server does not mask %d of %d secrets of this task in the job's reports: there are too"
                " many, or they are too long.",
                len(known) - len(kept),
                len(known),
            )
        return kept

    def defer(
        self, credentials: TaskCredentials, deferral: Deferral, *, patience: timedelta = PATIENCE
    ) -> TaskView:
        """Announce that the task is about to be deferred, and return the current state of the action.

        From then on the server may complete the task.

        :raises ServerError: the server refuses
        """
        content = Content("POST", "/task/defer", body=_encode(deferral.to_json()))
        return TaskView.from_json(self._send_signed(credentials, content, patience))

    def reap(self, credentials: TaskCredentials, *, patience: timedelta = timedelta(0)) -> TaskView:
        """End the action unless a task instance watches it or will adopt it, and return its new state.

        :raises ServerError: the server refuses
        """
        return TaskView.from_json(self._send_signed(credentials, Content("POST", "/task/reap"), patience))

    def report_results(self, job: Signer, results: JsonText, *, patience: timedelta = PATIENCE) -> None:
        """Report SUCCESS with results on behalf of a job that returned them to its runner.

        :raises ServerError: the server refuses
        """
        body = f'{{"status": "SUCCESS", "results": {results}}}'.encode()
        self._send_signed(job, Content("POST", "/status", body=body), patience)

    def outputs(
        self, credentials: TaskCredentials, *, patience: timedelta = PATIENCE
    ) -> list[dict[str, Any]]:
        """Return the output files of the job (``FileRecord.to_json``), by property and index.

        :raises ServerError: the server refuses
        """
        files = self._send_signed(credentials, Content("GET", "/task/outputs"), patience)["files"]
        return cast("list[dict[str, Any]]", files)

    def link_input(self, credentials: TaskCredentials, property_: str, reference: FileReference) -> None:
        """Link a file of any action to this action as an input.

        :raises ServerError: the server refuses
        """
        self.send(credentials, "POST", f"/task/inputs/{property_}/link", _encode(vars(reference)))

    def send(
        self,
        credentials: TaskCredentials,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        patience: timedelta = PATIENCE,
    ) -> dict[str, Any]:
        """Send a request to any task route, and return the JSON object of the response.

        :raises ServerError: the server refuses
        """
        return self._send_signed(credentials, Content(method, path, body=body), patience)

    def _send_signed(self, credentials: Signer, content: Content, patience: timedelta) -> dict[str, Any]:
        nonce = secrets.token_urlsafe(18)

        def headers() -> dict[str, str]:
            now_ms = _now_ms() + self._clock_offset_ms
            return signed_headers(credentials, content, time_ms=now_ms, nonce=nonce)

        path = str(content.path) + (f"?{content.query!s}" if content.query else "")
        return self._send(content.method, path, content.body, headers, patience)

    def _send(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Callable[[], dict[str, str]],
        patience: timedelta,
    ) -> dict[str, Any]:
        if len(body) > LARGEST_BODY_BYTES:
            raise too_large(
                len(body), f"it was not sent, since no server accepts more than {LARGEST_BODY_BYTES}"
            )
        return retrying(patience, self.log.warning)(self._send_once, method, path, body, headers)

    def _send_once(
        self, method: str, path: str, body: bytes, headers: Callable[[], dict[str, str]]
    ) -> dict[str, Any]:
        response = self._exchange(method, path, body, headers())
        offset_ms = response.clock_offset_ms(_now_ms())
        if offset_ms is not None:
            self._clock_offset_ms = offset_ms
            response = self._exchange(method, path, body, headers())
        fields = response.fields
        if response.is_success and fields is not None:
            return fields
        if response.status == HTTPStatus.NOT_MODIFIED:  # only wait_for_change asks for it
            return {}
        raise self._error(path, response)

    def _error(self, path: str, response: ServerResponse) -> ServerError:
        code, text = response.error
        message = f"{self.base_url}{path.partition('?')[0]} returned {response.status}"
        if code:
            message += f" {code}: {text}"
            if code == _NO_SUCH_ROUTE:
                message = f"{as_sentence(message)} {_IF_GATEWAY}"
        elif not response.is_success:
            message += f". {_IF_FOREIGN}"
        kind: type[ServerError] = ServerError
        if response.status == HTTPStatus.GONE:
            kind = Superseded
        elif response.is_success:
            kind = ServerUnreachable  # not the API server, for example a proxy
        return kind(
            message, status=response.status, code=code, retry_after_seconds=response.retry_after_seconds
        )

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> ServerResponse:
        try:
            response = self._session.request(
                method,
                self.base_url + path,
                data=body or None,
                headers={"Content-Type": "application/json", **headers},
                timeout=_TIMEOUT_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            if len(body) > settings.load().limits.body_bytes and is_hang_up(error):
                raise too_large(len(body), "the connection was closed while it was sent") from error
            reason = type(error).__name__
            raise ServerUnreachable(f"{self.base_url} cannot be reached ({reason})") from error
        received = {name.lower(): value for name, value in response.headers.items()}
        return ServerResponse(response.status_code, response.content, received)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _encode(fields: dict[str, Any]) -> bytes:
    """Return a JSON body. Values that JSON lacks become text, and lone surrogates (in file names) "?"."""
    return json.dumps(fields, ensure_ascii=False, default=str).encode("utf-8", "replace")
