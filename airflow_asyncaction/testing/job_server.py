# SPDX-License-Identifier: Apache-2.0
"""Job server: serves the job protocol from memory, to test job programs without Airflow.

In a test::

    with JobServer() as server:
        job = server.new_job(arguments={"day": "2026-01-01"})
        job.add_file("orders", "orders.csv", b"1,2,3")
        subprocess.run(["./my-job"], env={**os.environ, **job.environ}, check=True)
        assert job.action.results == '{"rows":3}'
        assert job.files["counts"][0].content == b"3"
"""

from __future__ import annotations

import hashlib
import secrets
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote

from airflow_asyncaction.exceptions import FileRefused, ProtocolError, RequestTooLarge, SignatureError
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import Action, action_to_json, unix_ms
from airflow_asyncaction.protocol.decisions import Accepted, EarlierReport, Refused
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.lifecycle import decide
from airflow_asyncaction.protocol.refusals import Refusal
from airflow_asyncaction.protocol.reports import Limits, parse_report
from airflow_asyncaction.protocol.signing import (
    JOB_ID_HEADER,
    NONCE_HEADER,
    TIME_HEADER,
    V1_HEADER,
    V2_HEADER,
    Claim,
    Content,
    Scheme,
    read_claim,
    report_key,
    verify,
)
from airflow_asyncaction.testing.files import MAX_FILE_BYTES, MAX_FILES, FilePath, InMemoryFiles
from airflow_asyncaction.testing.http_server import (
    Application,
    Fault,
    HttpRequest,
    HttpResponse,
    Listener,
    failure,
)
from airflow_asyncaction.testing.routes import Endpoint, Route, find_route
from airflow_asyncaction.testing.tested_job import Received, TestedJob

MAX_SKEW_MS = 300_000
HEADERS = (JOB_ID_HEADER, TIME_HEADER, NONCE_HEADER, V1_HEADER, V2_HEADER)


class JobServer:
    """Server on a free port of 127.0.0.1 that runs inside a ``with`` statement.

    Faults: :meth:`pause` (503), :meth:`fail` (500 or another response), :meth:`go_away` (connection refused),
    :meth:`lose_responses` (the report arrives, but its response is lost), ``clock_offset`` (difference
    between the server's clock and the local one). For the contents of files: :meth:`break_transfers`,
    :meth:`refuse_transfers`, :meth:`slow_transfers`, :meth:`expire_urls`.

    It does not enforce the timeouts of actions. Files are kept in memory, every job may download the files of
    all others, and content URLs are valid until :meth:`expire_urls`.

    :param prefix: path of the hook URL
    :param tls: serve HTTPS with this context
    :param direct_uploads: behave as with an object store: an upload counts once the job completes it
    :param max_files: maximum number of files per action, inputs and outputs together
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        prefix: str = "/async",
        tls: ssl.SSLContext | None = None,
        direct_uploads: bool = False,
        max_files: int = MAX_FILES,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self.limits = limits or Limits()
        self.clock_offset = timedelta()
        self._prefix = prefix.rstrip("/")
        self._tls = tls
        self._jobs: dict[str, TestedJob] = {}
        self._port = 0
        self._listener: Listener | None = None
        self._retry_after_seconds: int | None = None
        self._responses_to_lose = 0
        self._faults: list[Fault] = []
        self._files = InMemoryFiles(
            direct_uploads=direct_uploads, max_files=max_files, max_file_bytes=max_file_bytes
        )
        self._application = Application(
            now=self.now,
            respond=self._respond,
            max_body_bytes=lambda: self.limits.body_bytes,
            content_token=self._content_token,
            max_content_bytes=self._max_content_bytes,
            store_content=self._store_content,
            find_file=self._files.find_file,
        )

    def __enter__(self) -> Self:
        self.come_back()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.go_away()

    @property
    def hook_url(self) -> str:
        """Base URL that jobs report to."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._port}{self._prefix}"

    def new_job(
        self,
        arguments: Any = None,
        type: str = "test",  # noqa: A002
        *,
        service_name: str | None = None,
        method: str | None = None,
        orchestrator: str = "airflow",
        **action_fields: Any,
    ) -> TestedJob:
        """Register an action.

        :param arguments: any JSON value, by default ``{}``; for a service's method a list, by default ``[]``
        :param service_name: service whose method a webda job calls. The job must then report its end.
        :param orchestrator: value of ``JOB_ORCHESTRATOR``
        :param action_fields: further fields of :class:`Action`
        """
        if (service_name is None) != (method is None):
            raise ValueError("service_name and method must be set together")
        job_id, is_call = JobId(str(uuid.uuid4())), service_name is not None
        text = strict_json.dumps(([] if is_call else {}) if arguments is None else arguments)
        call = {"service_name": service_name, "method": method, "orchestrator": orchestrator}
        defaults = {"attempt": 1, "created_at": self.now(), "require_report": is_call}
        action = Action(id=job_id, type=type, arguments=text, **{**defaults, **call, **action_fields})
        info = JobInfo(
            job_id=job_id,
            secret_key=secrets.token_hex(32),
            hook_url=self.hook_url,
            orchestrator=orchestrator,
            arguments=text,
        )
        job = self._jobs[job_id] = TestedJob(info, action, self._files)
        return job

    def now(self) -> datetime:
        """Return the time of the server's clock."""
        return datetime.now(UTC) + self.clock_offset

    def pause(self, retry_after_seconds: int = 1) -> None:
        """Respond to all requests with 503 until :meth:`resume`."""
        self._retry_after_seconds = retry_after_seconds

    def resume(self) -> None:
        """Serve requests again after :meth:`pause`."""
        self._retry_after_seconds = None

    def fail(
        self,
        count: int,
        status: int = 500,
        code: str = "internal",
        *,
        containing: bytes = b"",
        page: str | None = None,
    ) -> None:
        """Fail the next ``count`` requests without any effect. Requests to content URLs are not affected.

        Repeated calls add up, in their order.

        :param status: status of the response; 0 closes the connection
        :param containing: only affect requests whose body contains this
        :param page: respond with this HTML, like a captive portal
        """
        self._faults.append(Fault(failure(status, code, page), count, containing))

    def lose_responses(self, count: int) -> None:
        """Process the next ``count`` requests, but close the connection instead of sending a response."""
        self._responses_to_lose = count

    def break_transfers(self, count: int, after_bytes: int) -> None:
        """Close the next ``count`` connections to content URLs after a number of bytes."""
        self._application.transfer_faults.cuts = [after_bytes] * count

    def refuse_transfers(self, count: int, status: int, code: str) -> None:
        """Fail the next ``count`` requests to content URLs."""
        self._application.transfer_faults.refusals = [failure(status, code)] * count

    def slow_transfers(self, bytes_per_second: int | None) -> None:
        """Limit the speed of content transfers; ``None`` removes the limit."""
        self._application.transfer_faults.bytes_per_second = bytes_per_second

    def expire_urls(self) -> None:
        """Invalidate all content URLs that were returned so far."""
        self._files.expire_urls()

    def go_away(self) -> None:
        """Close the port and all connections."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.go_away()

    def come_back(self) -> None:
        """Listen again on the same port after :meth:`go_away`."""
        if self._listener is None:
            self._listener = Listener(self._application, self._port, self._tls)
            self._port = self._listener.server_address[1]

    def _respond(self, request: HttpRequest) -> HttpResponse | None:
        """Return the response; ``None`` closes the connection."""
        if self._retry_after_seconds is not None:
            headers = {"Retry-After": str(self._retry_after_seconds)}
            return HttpResponse.of(Refusal(503, "unavailable", "Retry later", headers=headers))
        fault = next((fault for fault in self._faults if fault.hits(request)), None)
        if fault is not None:
            return fault.response
        try:
            response = self._route(request)
        except ProtocolError as error:
            response = self._refused(error)
        if self._responses_to_lose > 0:
            self._responses_to_lose -= 1
            return None
        return response

    def _route(self, request: HttpRequest) -> HttpResponse:
        sent, _, query = request.target.partition("?")
        path = sent[len(self._prefix) :]
        if not sent.startswith(self._prefix) or unquote(path)[:1] not in ("", "/"):
            return HttpResponse.of(Refusal.no_such_route())
        found = find_route(request.method, path, is_job=JOB_ID_HEADER.lower() in request.headers)
        if isinstance(found, Refusal):
            return HttpResponse.of(found)
        claim = read_claim(
            {name: request.headers[name.lower()] for name in HEADERS if name.lower() in request.headers}
        )
        if request.body is None:
            raise RequestTooLarge(
                f"The body exceeds {self.limits.body_bytes} bytes. Send several smaller requests"
            )
        if found.endpoint is Endpoint.TASK or path[:1] == "%":  # its first slash is escaped
            raise SignatureError
        job = self._authenticate(
            claim, Content(request.method, "" if path == "/" else path, query, request.body)
        )
        with job.changed:
            self._lock_out_v1(job, claim)
            response = self._serve_job(job, claim, found, request)
            job.requests.append(Received(claim, request.method, path, request.body, response.status))
            job.changed.notify_all()
        return response

    def _authenticate(self, claim: Claim, content: Content) -> TestedJob:
        job = self._jobs.get(claim.job_id.lower())
        secret = secrets.token_hex(32) if job is None else job.info.secret_key
        verify(claim, content, secret=secret, now_ms=unix_ms(self.now()), max_skew_ms=MAX_SKEW_MS)
        if job is None:
            raise SignatureError
        return job

    def _serve_job(self, job: TestedJob, claim: Claim, found: Route, request: HttpRequest) -> HttpResponse:
        """Serve an authenticated request. Errors become responses, too, so that they are recorded."""
        try:
            if found.endpoint is Endpoint.REPORT:
                return self._report(job, claim, request.body or b"")
            if found.endpoint is Endpoint.JOB:
                return HttpResponse(200, action_to_json(job.action, now=self.now()))
            return self._serve_file(job, found, request)
        except FileRefused as error:
            return HttpResponse.of(Refusal.of_file(error))
        except ProtocolError as error:
            return self._refused(error)

    def _refused(self, error: ProtocolError) -> HttpResponse:
        return HttpResponse.of(Refusal.of_request(error, server_time_ms=unix_ms(self.now())))

    def _serve_file(self, job: TestedJob, found: Route, request: HttpRequest) -> HttpResponse:
        path = FilePath(*(found.names[name] for name in FilePath._fields))
        if found.endpoint is Endpoint.ANNOUNCE:
            upload = self._files.announce(job.action, path, request.body or b"", self.hook_url)
            return HttpResponse(200, upload)
        index = int(found.names["index"])
        if found.endpoint is Endpoint.COMPLETE:
            return HttpResponse(200, self._files.complete(job.action, path, index))
        located = self._files.locate(job.action, path, index, self.hook_url, owners=self._jobs)
        if parse_qs(request.target.partition("?")[2]).get("redirect") == ["true"]:
            return HttpResponse(302, {}, {"Location": located["Location"]})
        return HttpResponse(200, located)

    def _content_token(self, path: str) -> str | None:
        prefix = f"{self._prefix}/content/"
        return path[len(prefix) :] if path.startswith(prefix) else None

    def _max_content_bytes(self, token: str) -> int:
        return self._files.find_owner(token)[1]

    def _store_content(self, token: str, content: bytes) -> Mapping[str, Any]:
        job = self._jobs[self._files.find_owner(token)[0]]
        with job.changed:
            response = self._files.store_content(job.action, token, content)
            job.changed.notify_all()
        return response

    def _lock_out_v1(self, job: TestedJob, claim: Claim) -> None:
        if claim.scheme is Scheme.V2:
            job.action = replace(job.action, accept_v1=False)
        elif not job.action.accept_v1:
            raise SignatureError

    def _report(self, job: TestedJob, claim: Claim, body: bytes) -> HttpResponse:
        report = parse_report(body, self.limits)
        key, digest = report_key(claim, body), hashlib.sha256(body).hexdigest()
        earlier = job.earlier.get(key)
        decision = decide(job.action, report, self.now(), earlier=earlier, body_sha256=digest)
        refused_with = decision.code if isinstance(decision, Refused) else None
        job.earlier.setdefault(key, EarlierReport(digest, refused_with))
        if isinstance(decision, Refused):
            return HttpResponse.of(Refusal.of_report(decision))
        if isinstance(decision, Accepted):
            job.action = decision.action
            job.reports.append(report)
        return HttpResponse(200, action_to_json(job.action, now=self.now()))
