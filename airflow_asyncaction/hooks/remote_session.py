# SPDX-License-Identifier: Apache-2.0
"""Sends requests to another deployment, from a thread."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterator, Mapping
from datetime import timedelta
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TypeVar

import requests
from airflow.sdk.log import mask_secret
from requests.utils import select_proxy

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.remote_access import (
    Access,
    Answer,
    Call,
    Flow,
    SignIn,
    origin_of,
    refusal,
    unreachable,
)
from airflow_asyncaction.hooks.remote_models import RemoteFile
from airflow_asyncaction.hooks.resending import until_answered
from airflow_asyncaction.protocol.resending import is_worth_resending, may_pass, retry_after_seconds

log = logging.getLogger(__name__)

T = TypeVar("T")

_PIECE_BYTES = 1024 * 1024


class RemoteSession:
    """Connections to another deployment. It belongs to one thread; its access may be shared.

    Requests go through the worker's web proxy, if it has one. Nothing but the access says who calls: no
    ~/.netrc, no cookie.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self._session = requests.Session()
        self._session.auth = _no_auth  # else requests looks into ~/.netrc
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def ask(self, call: Call, patience: timedelta) -> Answer:
        """Return the answer; those that pass by themselves, and outages, are waited for.

        :raises ServerUnreachable: no answer came for that long
        :raises ServerError: signing in failed, or the server was away for that long
        """
        return until_answered(lambda: self._try(call), patience, log.warning)

    def fetch(self, url: str, file: RemoteFile, path: Path, patience: timedelta) -> None:
        """Download the content of a file from wherever it is stored, without sending any credentials.

        :raises ServerUnreachable: no answer came for that long
        :raises ServerError: it cannot be fetched, or is not what its hash says
        """
        until_answered(lambda: self._try_to_fetch(url, file, path), patience, log.warning)

    def _try_to_fetch(self, url: str, file: RemoteFile, path: Path) -> None:
        origin = _http_origin(url)
        if origin is None:
            raise ServerError(f"The content of {file.name} has no http URL", code="not_understood")
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        target = self.access.target
        # The connection knows the deployment's certificate, not that of a file store elsewhere.
        verify = target.verify if origin == origin_of(target.base_url) else True
        try:
            with (
                requests.Session() as session,
                session.get(
                    url, stream=True, timeout=target.timeout_seconds, verify=verify, auth=_no_auth
                ) as answer,
            ):
                if not answer.ok:
                    message = f"The content of {file.name} answered {answer.status_code}"
                    wait_seconds = retry_after_seconds(answer.headers.get("Retry-After"))
                    raise ServerError(message, status=answer.status_code, retry_after_seconds=wait_seconds)
                _write_verified(answer.iter_content(_PIECE_BYTES), file, part)
            part.replace(path)
        except requests.RequestException as error:
            raise unreachable(Call(method="GET", url=url), error) from None
        finally:
            part.unlink(missing_ok=True)

    def _try(self, call: Call) -> Answer:
        """Return the answer, unless the request is worth another try.

        :raises ServerError: signing in failed, or it is worth another try
        """
        answer = self._drive(self.access.exchange(call))
        if is_worth_resending(answer.status):
            refused = refusal(call, answer)
            if may_pass(refused):
                refused.retry_after_seconds = retry_after_seconds(answer.headers.get("retry-after"))
                raise refused
        return answer

    def _drive(self, flow: Flow[T]) -> T:
        answer = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, SignIn):
                self._sign_in(step)
            else:
                answer = self._send(step)

    def _sign_in(self, asked: SignIn) -> None:
        with self.access.signing_in:
            if self._drive(self.access.sign_in(asked)):
                mask_secret(self.access.token)  # wherever it might be shown

    def _send(self, call: Call) -> Answer:
        target = self.access.target
        try:
            answer = self._session.request(
                call.method,
                call.url,
                data=call.body or None,
                headers=dict(call.headers),
                timeout=target.timeout_seconds,
                verify=target.verify,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise unreachable(call, error) from None
        return Answer(status=answer.status_code, headers=_lower(answer.headers), body=answer.content)


def surroundings(url: str, verify: bool | str) -> tuple[bool | str, str | None]:
    """Return what authorities and which web proxy are used for a URL, with the environment considered.

    Others that send requests must use the same: each library reads the environment in its own way.

    :param verify: as a connection says
    """
    with requests.Session() as session:
        settings = session.merge_environment_settings(url, {}, None, verify, None)
    proxy = select_proxy(url, settings["proxies"])
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    return settings["verify"] or False, proxy or None


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _write_verified(pieces: Iterator[bytes], file: RemoteFile, path: Path) -> None:
    digest = hashlib.sha256() if file.sha256 else hashlib.md5(usedforsecurity=False)
    with path.open("wb") as written:
        for piece in pieces:
            digest.update(piece)
            written.write(piece)
    if digest.hexdigest() != (file.sha256 or file.hash):
        raise ServerError(f"The content of {file.name} is not what its hash says", code="not_understood")


def _http_origin(url: str) -> str | None:
    try:
        origin = origin_of(url)
    except ValueError:  # its port is none
        return None
    return origin if origin.startswith(("http://", "https://")) else None


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
