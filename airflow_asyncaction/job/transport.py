# SPDX-License-Identifier: Apache-2.0
"""Transport: sends signed requests to the API server, and handles outages and clock differences."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from airflow_asyncaction import __version__
from airflow_asyncaction.exceptions import JobInfoError, ServerError, ServerUnreachable, Superseded
from airflow_asyncaction.job.proxies import Proxies, Proxy, tunnel_refusal
from airflow_asyncaction.protocol.compat import keyword_dataclass
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.reports import LARGEST_BODY_BYTES, Limits
from airflow_asyncaction.protocol.responses import ServerResponse, is_hang_up, too_large
from airflow_asyncaction.protocol.signing import Content, signed_headers

BROKEN = (OSError, http.client.HTTPException)

# Arguments and results of one request body each, which JSON escapes make up to three times as long.
_MAX_RESPONSE_BYTES = 7 * LARGEST_BODY_BYTES

_POLL_SECONDS = 0.05
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Request:
    """A request to the API server.

    :param path: relative to the hook URL, percent-encoded
    :param query: without ``?``
    :param nonce: identifies the request, also if it is resent
    """

    method: str
    path: str
    body: bytes = b""
    query: str = ""
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(18))


@keyword_dataclass
class Backoff:
    """Exponential backoff: each delay is twice as long as the last, reduced by up to a half at random."""

    first_seconds: float = 0.25
    longest_seconds: float = 15.0

    def delays(self) -> Iterator[float]:
        """Yield delays indefinitely."""
        delay = self.first_seconds
        while True:
            yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - only to spread load
            delay = min(delay * 2, self.longest_seconds)


class _Outage(Exception):
    """There was no response, or a transient error."""

    def __init__(self, message: str, *, status: int = 0, code: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_seconds = retry_after


class ServerKeepsFailing(ServerUnreachable):
    """The API server returned the maximum number of server errors for one request."""


class Transport:
    """Sends signed requests to one hook URL, on a persistent connection.

    Callers must send from one thread at a time. Errors never contain a secret, a header or a body.

    :param timeout_seconds: for connecting, and for each read
    :param proxies: default: the proxies of this process's environment
    :raises JobInfoError: the hook URL or its proxy cannot be used
    """

    def __init__(
        self,
        info: JobInfo,
        *,
        timeout_seconds: float,
        proxies: Proxies | None = None,
    ) -> None:
        self._info = info
        self._timeout_seconds = timeout_seconds
        self._backoff = Backoff()
        self._clock_offset_ms = 0
        self._connection: http.client.HTTPConnection | None = None
        try:
            url = urlsplit(info.hook_url)
            self._host, self._port = url.hostname or "", url.port
        except ValueError:
            raise JobInfoError("JOB_HOOK is not a valid URL") from None
        if not self._host:
            raise JobInfoError("JOB_HOOK has no host")
        self._netloc = url.netloc.rpartition("@")[2]
        self._is_https = url.scheme == "https"
        self._prefix = quote(url.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._")
        try:
            self._proxy = (proxies or Proxies()).choose(info.hook_url)
        except ValueError as error:
            raise JobInfoError(str(error)) from None

    def send(
        self,
        request: Request,
        *,
        patience_seconds: float,
        max_server_errors: int | None = None,
        should_give_up: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Send a request, resend it after transient errors, and return the response object.

        After a server error, it is resent on a new connection, which may reach another replica.

        :param patience_seconds: how long to resend during an outage; 0 for a single attempt
        :param max_server_errors: give up after this many 5xx responses
        :param should_give_up: polled between attempts: whether to give up at once
        :raises ServerKeepsFailing: the server returned that many 5xx responses
        :raises ServerUnreachable: the outage lasted longer
        :raises Superseded: the job should stop
        :raises ServerError: the request was refused
        """
        if len(request.body) > LARGEST_BODY_BYTES:
            raise too_large(
                len(request.body), f"it was not sent, since no server accepts more than {LARGEST_BODY_BYTES}"
            )
        deadline = time.monotonic() + patience_seconds
        server_errors = 0
        for delay in self._backoff.delays():
            try:
                return self._parse_response(self._exchange_with_clock(request))
            except _Outage as outage:
                self.close()
                server_errors += outage.status >= HTTPStatus.INTERNAL_SERVER_ERROR
                if server_errors == max_server_errors:
                    raise self._unreachable(outage, ServerKeepsFailing) from None
                wait_until = min(deadline, time.monotonic() + max(delay, outage.retry_after_seconds))
                if time.monotonic() >= deadline or not _wait(wait_until, should_give_up):
                    raise self._unreachable(outage) from None
        raise AssertionError("delays() does not end")

    def _unreachable(
        self, outage: _Outage, kind: type[ServerUnreachable] = ServerUnreachable
    ) -> ServerUnreachable:
        place = describe_place(self._host, self._proxy)
        return kind(f"The request to {place} failed: {outage}", status=outage.status, code=outage.code)

    def close(self) -> None:
        """Close the connection. The next request opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _exchange_with_clock(self, request: Request) -> ServerResponse:
        """Send a request. If the server reports a stale time, correct the clock offset and resend it."""
        response = self._exchange(request)
        offset_ms = response.clock_offset_ms(_now_ms())
        if offset_ms is None:
            return response
        self._clock_offset_ms = offset_ms
        return self._exchange(request)

    def _exchange(self, request: Request) -> ServerResponse:
        """Send a request. Resend it at once if the server had closed the idle connection.

        :raises _Outage: there was no response
        """
        if _may_be_too_large(request):
            self.close()  # an idle connection that breaks must not look like a refusal
        if self._connection is not None:
            with contextlib.suppress(*BROKEN):
                return self._round_trip(request)
        try:
            return self._round_trip(request)
        except BROKEN as error:
            status = tunnel_refusal(error)
            if status is None:
                raise _Outage(describe_error(error)) from None
            return ServerResponse(status)

    def _round_trip(self, request: Request) -> ServerResponse:
        target = self._prefix + request.path or "/"
        if request.query:
            target += "?" + request.query
        headers = self._headers(request)
        if self._proxy is not None and not self._is_https:
            target = f"http://{self._netloc}{target}"
            headers.update(self._proxy.headers)
        connection, self._connection = self._connection or self._connect(), None
        try:  # a signal handler that sends meanwhile opens its own connection
            if connection.sock is None:
                connection.connect()
            response = _response(connection, request, target, headers)
            payload = response.read(_MAX_RESPONSE_BYTES)
        except BaseException:  # an exception raised by a signal handler makes the connection unusable, too
            connection.close()
            raise
        self.close()
        if response.isclosed():  # otherwise the response exceeds the limit
            self._connection = connection
        else:
            connection.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return ServerResponse(response.status, payload, headers)

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_https else http.client.HTTPConnection
        proxy = self._proxy
        if proxy is None:
            return kind(self._host, self._port, timeout=self._timeout_seconds)
        connection = kind(proxy.host, proxy.port, timeout=self._timeout_seconds)
        if self._is_https:
            connection.set_tunnel(self._host, self._port, proxy.headers)
        return connection

    def _headers(self, request: Request) -> dict[str, str]:
        content = Content(request.method, request.path, request.query, request.body)
        headers = signed_headers(
            self._info, content, time_ms=_now_ms() + self._clock_offset_ms, nonce=request.nonce
        )
        headers["Accept"] = "application/json"
        headers["User-Agent"] = f"airflow-asyncaction/{__version__}"
        if request.body:
            headers["Content-Type"] = "application/json"
        if self._info.traceparent and _TRACEPARENT.fullmatch(self._info.traceparent):
            headers["traceparent"] = self._info.traceparent
        return headers

    def _parse_response(self, response: ServerResponse) -> dict[str, Any]:
        status, fields = response.status, response.fields
        if response.is_success:
            if fields is None:  # a captive portal, or a proxy's page: not the API server
                raise _Outage("the response is not a JSON object", status=status)
            return fields
        code, message = response.error
        text = f"status {status}" + (f" {code}" if code else "") + (f": {message}" if message else "")
        if response.is_transient:
            raise _Outage(text, status=status, code=code, retry_after=response.retry_after_seconds)
        kind = Superseded if status == HTTPStatus.GONE else ServerError
        place = describe_place(self._host, self._proxy)
        raise kind(f"{place} refused the request with {text}", status=status, code=code)


def _response(
    connection: http.client.HTTPConnection, request: Request, target: str, headers: dict[str, str]
) -> http.client.HTTPResponse:
    """Send a request and return the response, which may arrive before the whole body is sent.

    :raises ServerError: the server closed the connection, probably because the body is too large
    """
    try:
        connection.request(request.method, target, request.body or None, headers)
    except OSError as error:
        if not is_hang_up(error):
            raise
    try:
        return connection.getresponse()
    except OSError as error:
        if not is_hang_up(error) or not _may_be_too_large(request):
            raise
        raise too_large(len(request.body), "the connection was closed while it was sent") from None


def _may_be_too_large(request: Request) -> bool:
    return len(request.body) > Limits().body_bytes


def describe_place(host: str, proxy: Proxy | None) -> str:
    """Return the host, and the proxy if there is one, for error messages."""
    return host if proxy is None else f"{host} (through the proxy {proxy.place})"


def _wait(until: float, should_give_up: Callable[[], bool]) -> bool:
    """Sleep. Return ``False`` to give up. It polls because signal handlers must not take locks."""
    while (remaining := until - time.monotonic()) > 0:
        if should_give_up():
            return False
        time.sleep(min(remaining, _POLL_SECONDS))
    return not should_give_up()


def describe_error(error: Exception) -> str:
    """Describe an error of a connection: its class and, for an ``OSError``, its ``strerror``."""
    message = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
