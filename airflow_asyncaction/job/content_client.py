# SPDX-License-Identifier: Apache-2.0
"""Content client: transfers raw content to and from content URLs, which are credentials."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import field
from http import HTTPStatus
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from airflow_asyncaction import __version__
from airflow_asyncaction.exceptions import AsyncActionError, ServerError, ServerUnreachable, Superseded
from airflow_asyncaction.job.proxies import Proxies, Proxy, tunnel_refusal
from airflow_asyncaction.job.transport import BROKEN, Backoff, describe_error, describe_place
from airflow_asyncaction.protocol.compat import keyword_dataclass
from airflow_asyncaction.protocol.responses import error_of, is_worth_resending, retry_after_seconds

CHUNK_BYTES = 1024 * 1024

_TIMEOUT_SECONDS = 60.0  # for connecting, for each read and for the response
_MAX_REFUSAL_BYTES = 64 * 1024
_MAX_STALE_URLS = 3  # if so many new URLs are refused, expiry is not the reason
_XML_CODE = re.compile(rb"<Code>([A-Za-z0-9_.-]{1,100})</Code>")
_ADVICE = {
    409: "upload files before you report the end of the job",
    412: "the file changed or was damaged during the upload: upload it again",
    413: "upload a smaller file, or raise the server's limit",
    507: "free space in the file store",
}


class ContentOutage(Exception):
    """The transfer failed temporarily: try again.

    :param is_stale: whether the URL was refused, so that a new one is needed
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        wait_seconds: float = 0.0,
        is_stale: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.wait_seconds = wait_seconds
        self.is_stale = is_stale


class Patience:
    """Limits how long a transfer is retried after its first error, and waits between attempts.

    :param seconds: 0 for a single attempt
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Start over, after part of the content was transferred."""
        self._deadline: float | None = None
        self._delays = Backoff().delays()
        self._stale_urls = 0

    def wait(self, outage: ContentOutage) -> None:
        """Wait until the next attempt.

        :raises ServerUnreachable: the patience expired
        :raises ServerError: several new URLs in a row were refused
        """
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        if outage.is_stale:
            self._stale_urls += 1
        if self._stale_urls >= _MAX_STALE_URLS:
            raise ServerError(str(outage), status=outage.status, code=outage.code) from None
        if now >= self._deadline:
            raise ServerUnreachable(str(outage), status=outage.status, code=outage.code) from None
        time.sleep(min(max(next(self._delays), outage.wait_seconds), self._deadline - now))


@keyword_dataclass
class ContentClient:
    """Transfers content to and from content URLs. Errors only name the host and the proxy."""

    proxies: Proxies = field(default_factory=Proxies)

    def put(self, url: str, chunks: Iterable[bytes], *, size_bytes: int, method: str) -> None:
        """Upload content.

        :raises ContentOutage: a temporary error
        :raises ServerError: the content was refused
        """
        headers = {"Content-Length": str(size_bytes)}
        self._open(url, method, headers, chunks).close()

    def get(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Open content for reading. The caller closes it. Raises like :meth:`put`."""
        return self._open(url, "GET", headers, None)

    def _open(
        self, url: str, method: str, headers: Mapping[str, str], chunks: Iterable[bytes] | None
    ) -> http.client.HTTPResponse:
        host = _host_of(url)
        route = _ProxyHandler(self.proxies)
        request = urllib.request.Request(  # noqa: S310 - its scheme was checked
            url, chunks, {"User-Agent": f"airflow-asyncaction/{__version__}", **headers}, method=method
        )
        try:
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), route, _NoContentType, *_HANDLERS
            )
            response: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as refusal:
            with refusal:
                retry_after = refusal.headers.get("Retry-After")
                raise _error_of_refusal(route.describe(host), refusal.code, refusal, retry_after) from None
        except BROKEN as error:
            status = tunnel_refusal(error)
            if status is not None:
                raise _error_of_refusal(route.describe(host), status, io.BytesIO()) from None
            raise ContentOutage(f"No response from {route.describe(host)}: {_describe(error)}") from None
        return response


class _ProxyHandler(urllib.request.BaseHandler):
    """Sends requests through the proxy of their URL, also after a redirect."""

    handler_order = 100  # before the handlers that open connections

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies
        self._proxy: Proxy | None = None

    def http_open(self, request: urllib.request.Request) -> None:
        try:
            self._proxy = self._proxies.choose(request.full_url)
        except ValueError as error:
            raise AsyncActionError(str(error)) from None
        if self._proxy is not None:
            request.set_proxy(self._proxy.place, request.type)
            for name, value in self._proxy.headers.items():
                request.add_unredirected_header(name, value)

    https_open = http_open

    def describe(self, host: str) -> str:
        """Return the host, and the proxy if there is one, for error messages."""
        return describe_place(host, self._proxy)


class _EarlyResponseConnection(http.client.HTTPConnection):
    """Connection whose peer may respond and close it before it has read the whole body (413, 507)."""

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # getresponse() returns the reason
            super().send(data)


class _EarlyResponseHandler(urllib.request.AbstractHTTPHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> Any:
        connection_class: Any = type(http_class.__name__, (_EarlyResponseConnection, http_class), {})
        return super().do_open(connection_class, req, **options)


class _PlainHandler(_EarlyResponseHandler, urllib.request.HTTPHandler):
    pass


_HANDLERS: list[type[urllib.request.BaseHandler]] = [_PlainHandler]

if hasattr(urllib.request, "HTTPSHandler"):  # Python may have been built without TLS

    class _TlsHandler(_EarlyResponseHandler, urllib.request.HTTPSHandler):
        pass

    _HANDLERS.append(_TlsHandler)


class _NoContentType(urllib.request.BaseHandler):
    """Removes urllib's default Content-Type: the URLs of some object stores are signed without one."""

    handler_order = 900  # after urllib has added it

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        request.remove_header("Content-type")
        return request

    https_request = http_request


def _host_of(url: str) -> str:
    """Return the host of a URL.

    :raises ServerError: the URL cannot be used
    """
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts.hostname
    raise ServerError("The API server returned a content URL that is not http:// or https://")


def _describe(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    return describe_error(error)


def _error_of_refusal(
    place: str, status: int, response: BinaryIO | urllib.error.HTTPError, retry_after: str | None = None
) -> ContentOutage | ServerError:
    """Return the error for a response that refuses the content."""
    code, message = _read_refusal(response)
    text = f"{place} refused the content with status {status}"
    text += (f" {code}" if code else "") + (f": {message}" if message else "")
    if status == HTTPStatus.FORBIDDEN:
        return ContentOutage(text, status=status, code=code, is_stale=True)
    if is_worth_resending(status, code):
        wait_seconds = retry_after_seconds(retry_after)
        return ContentOutage(text, status=status, code=code, wait_seconds=wait_seconds)
    if status == HTTPStatus.GONE:
        return Superseded(text, status=status, code=code)
    advice = _ADVICE.get(status)
    return ServerError(f"{text} ({advice})" if advice else text, status=status, code=code)


def _read_refusal(response: BinaryIO | urllib.error.HTTPError) -> tuple[str, str]:
    """Return code and message. Ignore the message of an object store's XML, which may contain the URL."""
    try:
        body = response.read(_MAX_REFUSAL_BYTES)
    except BROKEN:
        return "", ""
    if found := _XML_CODE.search(body):
        return found[1].decode(), ""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    return error_of(fields if isinstance(fields, dict) else None)
