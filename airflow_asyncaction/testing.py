# SPDX-License-Identifier: Apache-2.0
"""A real API server of the job protocol, in memory: to test job programs without Airflow.

In a test::

    with JobServer() as server:
        job = server.new_job(arguments={"day": "2026-01-01"})
        job.add_file("orders", "orders.csv", b"1,2,3")
        subprocess.run(["./my-job"], env={**os.environ, **job.environ}, check=True)
        assert job.action.results == '{"rows":3}'
        assert job.files["counts"][0].content == b"3"
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from airflow_asyncaction.exceptions import (
    MalformedReport,
    ProtocolError,
    ReportTooLarge,
    SignatureError,
    StaleTime,
)
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import Action, StopReason, answer, unix_ms
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.lifecycle import (
    Accepted,
    Earlier,
    Exit,
    Message,
    Refused,
    Stop,
    Supersede,
    decide,
)
from airflow_asyncaction.protocol.reports import Limits, LogLine, Report, parse
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
from airflow_asyncaction.testing_files import ContentExchange, Files, StoredFile

MAX_SKEW_MS = 300_000
HEADERS = (JOB_ID_HEADER, TIME_HEADER, NONCE_HEADER, V1_HEADER, V2_HEADER)

_STATUSES = {
    "already_ended": HTTPStatus.CONFLICT,
    "nonce_reused": HTTPStatus.CONFLICT,
    "superseded": HTTPStatus.GONE,
}


@dataclass(frozen=True)
class Received:
    """One request as it came and was answered."""

    claim: Claim
    method: str
    path: str
    body: bytes
    status: int


@dataclass
class TestedJob:
    """One action in the server, as its tester sees it.

    :param reports: the accepted reports, without re-sends
    :param requests: all that came with a job's right signature
    """

    __test__ = False  # pytest: not a test case, for all its name

    info: JobInfo
    action: Action
    reports: list[Report] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)
    _files: Files = field(default_factory=partial(Files, direct_uploads=False), repr=False)
    _earlier: dict[str, Earlier] = field(default_factory=dict, repr=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, repr=False)

    @property
    def environ(self) -> dict[str, str]:
        """The variables to start the job's program with."""
        return self.info.to_environ()

    @property
    def logs(self) -> list[LogLine]:
        """All lines that were reported, in the order they came in."""
        with self._changed:
            return [line for report in self.reports for line in report.logs]

    @property
    def files(self) -> dict[str, list[StoredFile]]:
        """The attached files by property, in the order of their indexes."""
        return self._files.of(self.info.job_id)

    def add_file(
        self,
        property: str,  # noqa: A002
        name: str,
        content: bytes,
        **fields: Any,
    ) -> None:
        """Attach a file, for the job to download.

        :param fields: more fields of :class:`StoredFile`
        """
        self._files.add(self.info.job_id, property, StoredFile(name, content, **fields))

    def stop(self, reason: StopReason = StopReason.REQUESTED) -> None:
        """Ask the job to stop: its next report is answered with the verb STOP."""
        self.tell(Stop(reason))

    def supersede(self) -> None:
        """Let a newer attempt take over: its next report is answered with 410."""
        self.tell(Supersede())

    def exit(self, exit_: Exit) -> None:
        """Say how the job's process ended, as a runner does."""
        self.tell(exit_)

    def tell(self, message: Message) -> None:
        """Apply any other message than a report."""
        with self._changed:
            decision = decide(self.action, message, datetime.now(UTC))
            if isinstance(decision, Accepted):
                self.action = decision.action
            self._changed.notify_all()

    def wait_until(self, is_met: Callable[[TestedJob], object], timeout_seconds: float = 60.0) -> None:
        """Wait until a condition is met; it is looked at whenever something comes in.

        :raises TimeoutError: it was not met in time
        """
        with self._changed:
            if not self._changed.wait_for(lambda: is_met(self), timeout_seconds):
                raise TimeoutError(f"not met in {timeout_seconds:g} s: {self.action.state}, {self.logs[-3:]}")


class JobServer:
    """A server on a free port of 127.0.0.1, from ``with`` to its end.

    Faults: :meth:`pause` (503), :meth:`fail` (500 or another answer), :meth:`go_away` (nobody listens),
    :meth:`lose_answers` (the report arrives, its answer does not), ``clock_offset`` (the server's clock
    against ours); for the contents of files :meth:`break_transfers`, :meth:`refuse_transfers`,
    :meth:`slow_transfers`, :meth:`expire_urls`.

    What it does not do: it checks no clocks of an action. Files are in memory, each job may download every
    other's, and the URLs of contents last until :meth:`expire_urls`.

    :param prefix: path of the hook
    :param tls: speak HTTPS with this
    :param direct_uploads: be as with an object store: a content counts when the job says that it is complete
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        prefix: str = "/async",
        tls: ssl.SSLContext | None = None,
        direct_uploads: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self.clock_offset = timedelta()
        self._prefix = prefix.rstrip("/")
        self._tls = tls
        self._jobs: dict[str, TestedJob] = {}
        self._port = 0
        self._listener: _Listener | None = None
        self._retry_after_seconds: int | None = None
        self._answers_to_lose = 0
        self._failures: list[tuple[int, dict[str, Any]]] = []
        self._files = Files(direct_uploads=direct_uploads)

    def __enter__(self) -> Self:
        self.come_back()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.go_away()

    @property
    def hook(self) -> str:
        """The base URL that jobs report to."""
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

        :param arguments: any JSON value, default ``{}``; of a service's method a list, default ``[]``
        :param service_name: the service whose method a webda job calls; it must then report its end
        :param orchestrator: the job's JOB_ORCHESTRATOR
        :param action_fields: more fields of :class:`Action`
        """
        if (service_name is None) != (method is None):
            raise ValueError("Give service_name and method together")
        job_id, is_call = JobId(str(uuid.uuid4())), service_name is not None
        text = strict_json.dumps(([] if is_call else {}) if arguments is None else arguments)
        call = {"service_name": service_name, "method": method, "orchestrator": orchestrator}
        defaults = {"attempt": 1, "created_at": self.now(), "require_report": is_call}
        action = Action(id=job_id, type=type, arguments=text, **{**defaults, **call, **action_fields})
        info = JobInfo(
            job_id=job_id,
            secret_key=secrets.token_hex(32),
            hook=self.hook,
            orchestrator=orchestrator,
            arguments=text,
        )
        job = self._jobs[job_id] = TestedJob(info, action, _files=self._files)
        return job

    def now(self) -> datetime:
        """Return the time by the server's clock."""
        return datetime.now(UTC) + self.clock_offset

    def pause(self, retry_after_seconds: int = 1) -> None:
        """Answer everything with 503 until :meth:`resume`."""
        self._retry_after_seconds = retry_after_seconds

    def resume(self) -> None:
        """Answer again after :meth:`pause`."""
        self._retry_after_seconds = None

    def fail(self, count: int, status: int = 500, code: str = "internal") -> None:
        """Answer the next ``count`` requests with this, and take nothing in."""
        self._failures = [(status, {"error": code, "message": "As the test wants it"})] * count

    def lose_answers(self, count: int) -> None:
        """Take in the next ``count`` requests, but close the connection in place of an answer."""
        self._answers_to_lose = count

    def break_transfers(self, count: int, after_bytes: int) -> None:
        """Close the next ``count`` connections for contents when so much has come or gone."""
        self._files.cuts = [after_bytes] * count

    def refuse_transfers(self, count: int, status: int, code: str) -> None:
        """Answer the next ``count`` requests for contents with this."""
        self._files.refusals = [(status, {"error": code, "message": "As the test wants it"})] * count

    def slow_transfers(self, bytes_per_second: int | None) -> None:
        """Let contents come and go no faster than this; ``None``: as fast as they can."""
        self._files.bytes_per_second = bytes_per_second

    def expire_urls(self) -> None:
        """Let the URLs of contents that were given out up to now not be taken any more."""
        self._files.expire_urls()

    def go_away(self) -> None:
        """Close the port and all connections."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.go_away()

    def come_back(self) -> None:
        """Listen again, on the same port, after :meth:`go_away`."""
        if self._listener is None:
            self._listener = _Listener(self, self._port, self._tls)
            self._port = self._listener.server_address[1]

    def _answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, Any]] | None:
        """Return status and object of the answer; ``None`` to lose it."""
        if self._retry_after_seconds is not None:
            return 503, {"error": "unavailable", "message": "Try again later"}
        if self._failures:
            return self._failures.pop()
        try:
            result = self._route(method, target, headers, body)
        except SignatureError as error:
            result = 401, {"error": error.code, "message": str(error)}
            if isinstance(error, StaleTime):
                result[1]["serverTime"] = unix_ms(self.now())
        except ProtocolError as error:
            status = 413 if isinstance(error, ReportTooLarge) else 400
            result = status, {"error": error.code, "message": str(error)}
        if self._answers_to_lose > 0:
            self._answers_to_lose -= 1
            return None
        return result

    def _route(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, Any]]:
        path, _, query = target.partition("?")
        relative = path.removeprefix(self._prefix)
        if self._prefix and path == relative:
            return 404, {"error": "not_found", "message": "No such route"}
        relative = "" if relative == "/" else relative
        claim = read_claim(headers)
        job = self._jobs.get(claim.job_id)
        secret = secrets.token_hex(32) if job is None else job.info.secret_key
        content = Content(method, relative, query, body)
        verify(claim, content, secret=secret, now_ms=unix_ms(self.now()), max_skew_ms=MAX_SKEW_MS)
        if job is None:
            raise SignatureError
        with job._changed:
            self._lock_out_v1(job, claim)
            if (method, relative) in (("POST", "/status"), ("POST", "")):
                status, fields = self._report(job, claim, body)
            elif (method, relative) == ("GET", "/job"):
                status, fields = 200, answer(job.action, now=self.now())
            else:
                status, fields = self._answer_files(job, method, relative, body)
            job.requests.append(Received(claim, method, relative, body, status))
            job._changed.notify_all()
        return status, fields

    def _answer_files(
        self, job: TestedJob, method: str, relative: str, body: bytes
    ) -> tuple[int, dict[str, Any]]:
        if job.action.fenced:
            return 410, {"error": "superseded", "message": "A newer attempt took over"}
        if method == "PUT" and job.action.state.is_end:
            return 409, {"error": "already_ended", "message": "The action has ended"}
        answered = self._files.answer(job.info.job_id, self.hook, (method, relative), body)
        return answered or (404, {"error": "not_found", "message": "No such route"})

    def _exchange_content(self, handler: BaseHTTPRequestHandler) -> tuple[int, dict[str, Any]] | None:
        """Take or give a content; return what is still to be answered, ``None``: nothing."""
        return ContentExchange(self._files, handler).run()

    def _is_content(self, target: str) -> bool:
        return target.startswith(f"{self._prefix}/content/")

    def _lock_out_v1(self, job: TestedJob, claim: Claim) -> None:
        if claim.scheme is Scheme.V2:
            job.action = replace(job.action, accept_v1=False)
        elif not job.action.accept_v1:
            raise SignatureError

    def _report(self, job: TestedJob, claim: Claim, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            report = parse(body, self.limits)
        except (MalformedReport, ReportTooLarge) as error:
            status = 413 if isinstance(error, ReportTooLarge) else 400
            return status, {"error": error.code, "message": str(error)}
        key, digest = report_key(claim, body), hashlib.sha256(body).hexdigest()
        earlier = job._earlier.get(key)
        decision = decide(job.action, report, self.now(), earlier=earlier, body_sha256=digest)
        refused_with = decision.code if isinstance(decision, Refused) else None
        job._earlier.setdefault(key, Earlier(digest, refused_with))
        if isinstance(decision, Refused):
            return _STATUSES[decision.code], {"error": decision.code, "message": decision.message}
        if isinstance(decision, Accepted):
            job.action = decision.action
            job.reports.append(report)
        return 200, answer(job.action, now=self.now())


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, server: JobServer, port: int, tls: ssl.SSLContext | None) -> None:
        self.job_server = server
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay quiet: clients that vanish in the middle of a request are tested for."""

    def go_away(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the time by the server's clock, not the machine's."""
        return format_datetime(self.server.job_server.now(), usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Stay quiet."""

    def _handle(self) -> None:
        job_server = self.server.job_server
        if job_server._is_content(self.path):
            return self._handle_content()
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > job_server.limits.body_bytes:
            self.close_connection = True
            self._discard(length)
            return self._send(413, {"error": "too_large", "message": "Send it in parts"})
        body = self.rfile.read(int(length))
        headers = {name: self.headers[name] for name in HEADERS if name in self.headers}
        result = job_server._answer(self.command, self.path, headers, body)
        if result is None:
            self.close_connection = True
            return None
        return self._send(*result)

    def _handle_content(self) -> None:
        answered = self.server.job_server._exchange_content(self)
        if answered is not None:
            self.close_connection = True  # a refusal comes before the content
            self._send(*answered)

    def _discard(self, length: str) -> None:
        """Read what nobody wants, so that the client sees the answer and not a broken pipe."""
        left = int(length) if length.isascii() and length.isdigit() else 0
        deadline = time.monotonic() + 5
        while left > 0 and time.monotonic() < deadline and (chunk := self.rfile.read(min(left, 65536))):
            left -= len(chunk)

    def _send(self, status: int, fields: Mapping[str, Any]) -> None:
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        retry_after = self.server.job_server._retry_after_seconds
        if status == HTTPStatus.SERVICE_UNAVAILABLE and retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(body)
