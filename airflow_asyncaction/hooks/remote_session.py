# SPDX-License-Identifier: Apache-2.0
"""RemoteSession: sends requests to another deployment from a thread, with the library ``requests``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from datetime import timedelta
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, TypeVar

import requests
from airflow.sdk.log import mask_secret
from requests.auth import AuthBase
from requests.utils import select_proxy

from airflow_asyncaction.exceptions import AsyncActionError, ServerError
from airflow_asyncaction.hooks.remote_api import Exchange, RemoteApi, RemoteRequest, refusal, unreachable
from airflow_asyncaction.hooks.remote_auth import TOKEN_HEADERS, Authorize, FetchToken, RemoteAuth
from airflow_asyncaction.hooks.remote_connection import RemoteConnection, origin_of
from airflow_asyncaction.hooks.remote_models import RemoteFile
from airflow_asyncaction.job.download import Download, ExpectedContent, WrongRange, downloading
from airflow_asyncaction.protocol.responses import ServerResponse
from airflow_asyncaction.retrying import retrying

log = logging.getLogger(__name__)

T = TypeVar("T")

_CHUNK_BYTES = 64 * 1024  # requests discards a chunk whose transfer breaks off

AuthSteps = Generator[Authorize | FetchToken, int | None, None]


class RequestsAuth(AuthBase):
    """Authenticates the requests of a session. Several sessions may share the credentials and the lock."""

    def __init__(self, auth: RemoteAuth, lock: threading.Lock, connection: RemoteConnection) -> None:
        self._auth = auth
        self._lock = lock
        self._connection = connection

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header, and repeat the request once if the server refuses the token."""
        steps = self._auth.flow()
        self._authorize(request, steps, None)
        request.register_hook("response", partial(self._on_response, steps))  # type: ignore[no-untyped-call]
        return request

    def _on_response(
        self, steps: AuthSteps, response: requests.Response, **options: Any
    ) -> requests.Response:
        request = response.request.copy()
        try:
            self._authorize(request, steps, response.status_code)
        except StopIteration:
            return response
        _ = response.content  # all of it, so that the connection can be reused
        response.close()
        repeated: requests.Response = response.connection.send(request, **options)
        repeated.request = request
        return repeated

    def _authorize(self, request: requests.PreparedRequest, steps: AuthSteps, status: int | None) -> None:
        step = steps.send(status)
        if isinstance(step, FetchToken):
            self._fetch_token(step)
            step = next(steps)
        if isinstance(step, Authorize) and step.header is not None:
            request.headers["Authorization"] = step.header

    def _fetch_token(self, step: FetchToken) -> None:
        with self._lock, _new_session() as session:
            if not self._auth.is_needed(step):
                return
            try:
                response = session.post(
                    self._auth.token_url,
                    data=self._auth.token_request_body(),
                    headers=TOKEN_HEADERS,
                    timeout=self._connection.timeout_seconds,
                    verify=self._connection.verify,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                raise unreachable(self._auth.token_url, error) from None
            mask_secret(self._auth.accept_token(_server_response(response)))


class RemoteSession:
    """Connections to another deployment. It belongs to one thread; see :meth:`clone`.

    Requests go through the worker's web proxy, if it has one. Neither ~/.netrc nor cookies are used.
    """

    def __init__(self, connection: RemoteConnection) -> None:
        self.api = RemoteApi(connection)
        self._auth = RequestsAuth(RemoteAuth(connection), threading.Lock(), connection)
        self._session = _new_session()

    @property
    def connection(self) -> RemoteConnection:
        """The connection that it uses."""
        return self.api.connection

    def clone(self) -> RemoteSession:
        """Return a session for another thread. Both share the token."""
        twin = RemoteSession(self.connection)
        twin._auth = self._auth
        return twin

    def run(self, exchange: Exchange[T], patience: timedelta) -> T:
        """Send the requests of an exchange, and return its result. Wait for outages to end.

        :param patience: how long to retry each request
        :raises ServerUnreachable: no response arrived for that long
        :raises ServerError: the server refused, or was unavailable for that long
        """
        try:
            request = next(exchange)
            while True:
                request = exchange.send(retrying(patience, log.warning)(self._send, request))
        except StopIteration as end:
            result: T = end.value
            return result

    def download(self, url: str, file: RemoteFile, path: Path, patience: timedelta) -> None:
        """Download the content of a file from wherever it is stored, without any credentials.

        :param patience: how long to keep resuming the download while no bytes arrive
        :raises ServerUnreachable: no response arrived for that long
        :raises ServerError: the content is refused, or does not match its digests
        """
        if _http_origin(url) is None:
            raise ServerError(
                f"The server returned a content URL for {file.name} that is not http:// or https://",
                code="not_understood",
            )
        expected = ExpectedContent(
            name=file.name, size_bytes=file.size_bytes, md5=file.hash, sha256=file.sha256
        )
        try:
            with downloading(path, expected) as download:
                while not self._receive(download, url, file, patience):
                    log.warning("The download of %s broke off. Resuming it.", file.name)
        except ServerError:
            raise
        except AsyncActionError as error:
            raise ServerError(str(error), code="not_understood") from None

    def _receive(self, download: Download, url: str, file: RemoteFile, patience: timedelta) -> bool:
        """Resume a download. Return ``False`` if it broke off after some bytes."""
        before = download.received_bytes

        def attempt() -> bool:
            try:
                self._request_content(download, url, file)
            except requests.RequestException as error:
                if download.received_bytes > before:
                    return False
                raise unreachable(url, error) from None
            return True

        return retrying(patience, log.warning)(attempt)

    def _request_content(self, download: Download, url: str, file: RemoteFile) -> None:
        connection = self.connection
        # The connection knows the certificate of the deployment, not that of a file store elsewhere.
        verify = connection.verify if _http_origin(url) == origin_of(connection.base_url) else True
        with (
            _new_session() as session,
            session.get(
                url,
                headers={"Accept-Encoding": "identity", **download.request_headers()},
                stream=True,
                timeout=connection.timeout_seconds,
                verify=verify,
            ) as response,
        ):
            if not response.ok:
                head = ServerResponse(response.status_code, headers=_lower(response))
                raise ServerError(
                    f"The content of {file.name} is not available: its file store returned {head.status}",
                    status=head.status,
                    retry_after_seconds=head.retry_after_seconds,
                )
            try:
                download.begin(response.status_code, _lower(response))
            except WrongRange as error:
                raise requests.exceptions.ChunkedEncodingError(str(error)) from None
            for chunk in response.iter_content(_CHUNK_BYTES):
                download.add(chunk)

    def _send(self, request: RemoteRequest) -> ServerResponse:
        """Send a request once, and return the response.

        :raises ServerError: the response is transient, or no token was fetched
        """
        connection = self.connection
        try:
            response = self._session.request(
                request.method,
                request.url,
                data=request.body or None,
                headers=dict(request.headers),
                auth=self._auth,
                timeout=connection.timeout_seconds,
                verify=connection.verify,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise unreachable(request.url, error, body_bytes=len(request.body)) from None
        received = _server_response(response)
        if received.is_transient:
            raise refusal(request, received)
        return received


def environment_of(url: str, verify: bool | str) -> tuple[bool | str, str | None]:
    """Return the CA certificates and the web proxy for a URL, as requests reads them from the environment.

    httpx reads the environment in another way. With this, triggers connect as workers do.

    :param verify: the setting of the connection
    """
    with requests.Session() as session:
        settings = session.merge_environment_settings(url, {}, None, verify, None)
    proxy = select_proxy(url, settings["proxies"])
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    return settings["verify"] or False, proxy or None


def _new_session() -> requests.Session:
    session = requests.Session()
    session.auth = _no_auth  # otherwise requests reads ~/.netrc
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _server_response(response: requests.Response) -> ServerResponse:
    return ServerResponse(response.status_code, response.content, _lower(response))


def _lower(response: requests.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _http_origin(url: str) -> str | None:
    try:
        origin = origin_of(url)
    except ValueError:  # invalid port
        return None
    return origin if origin.startswith(("http://", "https://")) else None
