# SPDX-License-Identifier: Apache-2.0
"""Routes of users: authentication comes first, and any bytes in a request are answered."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator

import pytest
from airflow.api_fastapi.app import create_auth_manager, purge_cached_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from flask import Flask
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_asyncaction.web.app import create_app, create_asgi_app
from dev.postgres import Postgres
from tests.integration.asgi_client import AsgiClient
from tests.integration.databases import Database
from tests.integration.signed_jobs import Answer
from tests.shared import WORKER

pytestmark = [
    pytest.mark.integration,
    # PostgreSQL refuses more input than SQLite.
    pytest.mark.parametrize("database", ["postgresql"], indirect=True, scope="session"),
]

hostile = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
escaped = st.binary(max_size=12).map(lambda value: "".join(f"%{octet:02x}" for octet in value).encode())
NOBODY = "018f0000-0000-7000-8000-000000000000"
NONSENSE = b"status=NOPE&limit=x&cursor=x&full=maybe&after=x&afterLine=-1&schedule=never&type=&mapIndex=x"
PARAMETERS = (
    "type status dag run task mapIndex since until limit cursor full after afterLine afterReport schedule"
)


@pytest.fixture
def app(database: Database) -> Flask:  # noqa: ARG001 - Airflow uses it
    return create_app()


@pytest.fixture
def client(database: Database, caplog: pytest.LogCaptureFixture) -> Iterator[AsgiClient]:  # noqa: ARG001
    """Return a client of the mounted app, in which nothing may fail."""
    caplog.set_level(logging.DEBUG)
    yield AsgiClient(create_asgi_app())
    assert "Traceback" not in caplog.text


@pytest.fixture(scope="module")
def token_of_ann() -> Iterator[str]:
    """Return a token: Airflow keeps the key that it has first found for as long as a process lives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", secrets.token_hex(64))
        ann = SimpleAuthManagerUser(username="ann", role="admin", teams=[])
        yield create_auth_manager().generate_jwt(ann)
    purge_cached_app()


@pytest.fixture
def token(token_of_ann: str) -> Iterator[bytes]:
    """Return the token of an administrator; Airflow's auth manager is there in this process."""
    create_auth_manager()
    yield token_of_ann.encode()
    purge_cached_app()


def bearer(token: bytes) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token


def routes(app: Flask, uuid: str) -> list[tuple[str, str]]:
    """Return method and path of each route of users."""
    adapter = app.url_map.bind("")
    found = []
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("users."):
            known = {"uuid": uuid, "index": 0, "property_": "orders", "operation_id": "etl.load"}
            path = adapter.build(rule.endpoint, {name: known[name] for name in rule.arguments})
            found += [(method, path) for method in sorted(rule.methods or ())]
    assert len(found) > 10
    return found


def is_answered(answer: Answer) -> bool:
    return answer.status < 400 or (answer.status < 500 and (answer.body == b"" or bool(answer.error[1])))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [bearer(b"nonsense")],
        [bearer(b"\xff\xfe")],
        [bearer(b"")],
        [(b"authorization", b"Basic YTpi")],
        [(b"cookie", b"_token=nonsense")],
        [(b"cookie", b"_token=\xff; a=\xff")],
        [(b"cookie", b"_token=nonsense"), (b"x-requested-with", b"x")],
    ],
    ids=str,
)
def test_a_request_is_authenticated_before_anything_else(
    app: Flask, client: AsgiClient, token: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    assert token  # the auth manager is there
    for method, path in routes(app, "no-uuid"):
        for query in (NONSENSE, b"status=\xff"):
            answer = client.request(method, path, query=query, headers=headers, body=b"[")
            assert answer.status == 401, (method, path)
            assert method == "HEAD" or answer.error == (401, "not_signed_in")
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_cookie_alone_changes_nothing(app: Flask, client: AsgiClient, token: bytes) -> None:
    for method, path in routes(app, "no-uuid"):
        answer = client.request(method, path, headers=[(b"cookie", b"_token=" + token)])
        if method == "PUT":
            assert answer.error == (403, "csrf")
        else:
            assert answer.status in (200, 404)


def test_where_there_is_no_auth_manager_nobody_is_known(app: Flask, client: AsgiClient) -> None:
    for method, path in routes(app, "no-uuid"):
        assert client.request(method, path, query=NONSENSE).status == 401
        assert client.request(method, path, query=NONSENSE, headers=[bearer(b"x")]).status == 503


def test_a_user_learns_that_the_database_is_unavailable(
    app: Flask, client: AsgiClient, token: bytes, postgres_server: Postgres
) -> None:
    """Airflow looks there for revoked tokens, before we look for anything."""
    all_routes = routes(app, NOBODY)
    with postgres_server.outage(f"airflow_{WORKER}"):
        answers = [client.request(*route, headers=[bearer(token)]) for route in all_routes]
    assert {answer.status for answer in answers} == {503}
    assert client.request("GET", "/actions", headers=[bearer(token)]).status == 200


@hostile
@given(
    name=st.sampled_from(PARAMETERS.encode().split()),
    value=st.binary(max_size=20) | escaped,
    query=st.binary(max_size=20),
)
@example(name=b"type", value=b"\xff", query=b"\xff")
@example(name=b"type", value=b"%ff", query=b"&&==")
@example(name=b"type", value=b"\xed\xa0\x80", query=b"")
@example(name=b"dag", value=b"%00", query=b"")
@example(name=b"since", value=b"%ff", query=b"")
@example(name=b"since", value=b"%d9%a3", query=b"")
@example(name=b"limit", value=b"9" * 5000, query=b"")
def test_any_bytes_in_a_query_are_answered(
    app: Flask, client: AsgiClient, token: bytes, name: bytes, value: bytes, query: bytes
) -> None:
    for method, path in routes(app, NOBODY):
        sent = name + b"=" + value + b"&" + query
        answer = client.request(method, path, query=sent, headers=[bearer(token)], body=b"{}")
        assert is_answered(answer), (method, path, answer)


@pytest.mark.parametrize("name", ["type", "dag", "run", "task"])
@pytest.mark.parametrize("value", [b"%ff", b"\xff", b"%00", b"%ed%a0%80", b"a%c3", b"\xc3%a9"], ids=repr)
def test_what_is_no_text_is_named(client: AsgiClient, token: bytes, name: str, value: bytes) -> None:
    query = name.encode() + b"=" + value
    answer = client.request("GET", "/actions", query=query, headers=[bearer(token)])
    assert answer.error == (400, "malformed")
    assert answer.fields["field"] == name


@pytest.mark.parametrize("name", ["run", "task", "mapIndex", "iteration"])
def test_a_filter_within_a_dag_requires_the_dag(client: AsgiClient, token: bytes, name: str) -> None:
    query = name.encode() + b"=1"
    refused = client.request("GET", "/actions", query=query, headers=[bearer(token)])
    assert refused.error == (400, "malformed")
    assert refused.fields["field"] == name
    assert "also give dag" in refused.fields["message"]
    answer = client.request("GET", "/actions", query=query + b"&dag=none", headers=[bearer(token)])
    assert answer.fields == {"actions": [], "nextCursor": None}


def test_text_is_the_same_escaped_or_not(client: AsgiClient, token: bytes) -> None:
    for value in (b"%c3%a9", b"\xc3\xa9"):  # é
        answer = client.request("GET", "/actions", query=b"type=" + value, headers=[bearer(token)])
        assert answer.fields == {"actions": [], "nextCursor": None}


@hostile
@given(part=st.text(max_size=20), rest=st.text(max_size=20))
@example(part="\ufffd", rest="\0")
@example(part="\ud800", rest="\udcff")  # no server decodes a path so, but the specification does not say it
@example(part="orders", rest="9" * 5000)
@example(part="orders", rest="\u0663")  # a digit, but not one of ours
def test_any_path_is_answered(client: AsgiClient, token: bytes, part: str, rest: str) -> None:
    paths = (
        f"/actions/{part}",
        f"/actions/{NOBODY}/files/{part}/{rest}",
        f"/actions/{NOBODY}/{part}",
        f"/{part}",
    )
    for path in paths:
        for method in ("GET", "PUT"):
            assert is_answered(client.request(method, path, headers=[bearer(token)])), (method, path)


@hostile
@given(
    name=st.sampled_from(
        [b"cookie", b"authorization", b"if-none-match", b"idempotency-key", b"x-requested-with", b"host"]
    ),
    prefix=st.sampled_from([b"", b"Bearer ", b"_token=", b"W/"]),
    value=st.binary(max_size=20),
)
@example(name=b"cookie", prefix=b"_token=", value=b"\xff")
@example(name=b"cookie", prefix=b"", value=b'a="\xff\\"')
@example(name=b"if-none-match", prefix=b"W/", value=b'"\xff"')
@example(name=b"authorization", prefix=b"Bearer ", value=b"\xe9.\xe9.\xe9")
@example(name=b"host", prefix=b"", value=b"[\xff")
def test_any_bytes_in_a_header_are_answered(
    app: Flask, client: AsgiClient, token: bytes, name: bytes, prefix: bytes, value: bytes
) -> None:
    known = [] if name == b"authorization" else [bearer(token)]
    for method, path in routes(app, NOBODY):
        answer = client.request(method, path, headers=[(name, prefix + value), *known], body=b"{}")
        assert is_answered(answer), (method, path, answer)
