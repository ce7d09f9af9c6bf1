# SPDX-License-Identifier: Apache-2.0
"""RemoteAuth: authenticates requests to another deployment, with a token that it fetches when needed.

One generator decides what to send. ``RequestsAuth`` and ``HttpxAuth`` plug it into their libraries.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Generator
from dataclasses import dataclass, field
from http import HTTPStatus

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.remote_connection import RemoteConnection
from airflow_asyncaction.protocol.responses import ServerResponse

_REFUSALS = frozenset({400, 401, 403, 422})

TOKEN_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


@dataclass(frozen=True)
class Authorize:
    """Step of the flow: send the request with this ``Authorization`` header, and return the status."""

    header: str | None = field(repr=False)


@dataclass(frozen=True)
class FetchToken:
    """Step of the flow: fetch a token, unless another request fetched one meanwhile.

    :param refused: the token that the server refused, if there was one
    """

    refused: str | None = field(repr=False)


class RemoteAuth:
    """Credentials of one connection, and the token that they were exchanged for. Performs no I/O."""

    def __init__(self, connection: RemoteConnection) -> None:
        self._connection = connection
        self.token: str | None = connection.token
        self.token_url = f"{connection.airflow_url}/auth/token"

    def flow(self) -> Generator[Authorize | FetchToken, int | None, None]:
        """Authenticate one request: fetch a token if there is none, and once more if it was refused."""
        if self._connection.fetches_token and self.token is None:
            yield FetchToken(refused=None)
        sent = self.token
        status = yield self._authorize()
        if status == HTTPStatus.UNAUTHORIZED and self._connection.fetches_token:
            yield FetchToken(refused=sent)
            yield self._authorize()

    def is_needed(self, step: FetchToken) -> bool:
        """Return whether the token was not replaced in the meantime. Call this under a lock."""
        return self.token == step.refused

    def token_request_body(self) -> bytes:
        """Return the body of ``POST token_url``."""
        connection = self._connection
        return json.dumps({"username": connection.login, "password": connection.password or ""}).encode()

    def accept_token(self, response: ServerResponse) -> str:
        """Keep the token of a response, and return it.

        :raises ServerError: the response has no token
        """
        token = (response.fields or {}).get("access_token")
        if response.is_success and isinstance(token, str):
            self.token = token
            return token
        # 5xx and the like may be transient.
        code = "not_signed_in" if response.status in _REFUSALS else ""
        problem = "it refused login and password of the connection" if code else "it returned no token"
        raise ServerError(
            f"{self.token_url} returned {response.status}: {problem}",
            status=response.status,
            code=code,
            retry_after_seconds=response.retry_after_seconds,
        )

    def _authorize(self) -> Authorize:
        connection = self._connection
        if self.token is not None:
            return Authorize(f"Bearer {self.token}")
        if connection.is_webda and connection.login is not None:
            pair = f"{connection.login}:{connection.password or ''}"
            return Authorize(f"Basic {base64.b64encode(pair.encode()).decode()}")
        return Authorize(None)
