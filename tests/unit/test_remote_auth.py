# SPDX-License-Identifier: Apache-2.0
"""Authentication of requests to another deployment, without a server."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.remote_auth import Authorize, FetchToken, RemoteAuth
from airflow_asyncaction.hooks.remote_connection import DeploymentKind, RemoteConnection
from airflow_asyncaction.protocol.responses import ServerResponse


def auth(**fields: Any) -> RemoteAuth:
    urls = {"base_url": "https://a.org/async", "airflow_url": "https://a.org"}
    return RemoteAuth(RemoteConnection(**{**urls, "login": "user", "password": "pw", **fields}))


def token(text: str) -> ServerResponse:
    return ServerResponse(201, json.dumps({"access_token": text}).encode())


def test_a_token_is_fetched_first_and_once_more_if_it_is_refused() -> None:
    mine = auth()
    steps = mine.flow()
    assert next(steps) == FetchToken(refused=None)
    mine.accept_token(token("first"))
    assert next(steps) == Authorize("Bearer first")
    assert steps.send(401) == FetchToken(refused="first")
    mine.accept_token(token("second"))
    assert next(steps) == Authorize("Bearer second")
    with pytest.raises(StopIteration):
        steps.send(401)


def test_a_token_that_another_request_fetched_is_used() -> None:
    mine = auth()
    mine.accept_token(token("first"))
    steps = mine.flow()
    assert next(steps) == Authorize("Bearer first")
    refused = steps.send(401)
    assert isinstance(refused, FetchToken)
    assert mine.is_needed(refused)
    mine.accept_token(token("second"))
    assert not mine.is_needed(refused)


@pytest.mark.parametrize(
    ("fields", "header"),
    [
        ({"token": "given"}, "Bearer given"),
        ({"login": None}, None),
        ({"kind": DeploymentKind.WEBDA}, f"Basic {base64.b64encode(b'user:pw').decode()}"),
    ],
)
def test_nothing_is_fetched_where_there_is_nothing_to_exchange(
    fields: dict[str, Any], header: str | None
) -> None:
    steps = auth(**fields).flow()
    assert next(steps) == Authorize(header)
    with pytest.raises(StopIteration):
        steps.send(401)


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (ServerResponse(401), "not_signed_in"),
        (ServerResponse(503), ""),
        (ServerResponse(200, b"<html>"), ""),
        (ServerResponse(200, b'{"access_token": 7}'), ""),
    ],
)
def test_a_response_without_a_token_is_an_error(response: ServerResponse, code: str) -> None:
    with pytest.raises(ServerError, match=f"auth/token returned {response.status}") as raised:
        auth().accept_token(response)
    assert (raised.value.status, raised.value.code) == (response.status, code)
