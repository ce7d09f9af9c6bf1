# SPDX-License-Identifier: Apache-2.0
"""Lanes: which threads serve a request. Also other ASGI scopes, and clients that disconnect early."""

from __future__ import annotations

import os
import threading
from urllib.parse import quote, unquote

import pytest
from flask import Flask
from starlette.types import ASGIApp, Message

from airflow_asyncaction.services import Services, open_services
from airflow_asyncaction.web.app import Lane, Lanes, Serving, create_app, create_asgi_app
from airflow_asyncaction.web.content import CHUNK_BYTES
from tests.integration.asgi_client import GONE, MOUNT, PART, AsgiClient
from tests.integration.databases import Database
from tests.integration.file_servers import Folder
from tests.integration.file_transfers import announce, locate, upload
from tests.integration.servers import served_alone
from tests.integration.signed_jobs import HookClient, NewJob

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("database", ["sqlite"], indirect=True, scope="session"),
]

LANES = {
    "POST /": Lane.JOBS,
    "POST /status": Lane.JOBS,
    "GET /job": Lane.JOBS,
    "PUT /upload/default/u/p": Lane.JOBS,
    "POST /upload/default/u/p/0/complete": Lane.JOBS,
    "GET /download/default/u/p/0": Lane.JOBS,
    "POST /task/register": Lane.JOBS,
    "GET /task/action": Lane.JOBS,
    "PUT /task/inputs/default/p": Lane.JOBS,
    "PUT /content/t": Lane.CONTENTS,
    "GET /content/t": Lane.CONTENTS,
    "HEAD /content/t": Lane.CONTENTS,
    "DELETE /content/t": Lane.CONTENTS,  # refused there: its token is to be seen in no log
    "GET /": Lane.USERS,
    "PUT /etl.load": Lane.USERS,
    "PUT /content": Lane.USERS,
    "GET /actions": Lane.USERS,
    "GET /actions/u": Lane.USERS,
    "PUT /actions/u/stop": Lane.USERS,
    "GET /actions/u/files/p/0": Lane.USERS,
    "GET /openapi.json": Lane.USERS,
    "GET /ui": Lane.USERS,
    "GET /ui/": Lane.USERS,
    "GET /ui/action/u": Lane.USERS,
    "GET /ui/static/v/main.js": Lane.USERS,
    "GET /nothing/there": Lane.USERS,
    "GET /actions/../job": Lane.USERS,
    "PATCH /status": Lane.USERS,  # which no route takes
    "DELETE /": Lane.USERS,
}


@pytest.fixture
def server() -> str:
    """Return how jobs are served while they make what a test needs."""
    return "alone"


@pytest.fixture
def app(database: Database) -> Flask:  # noqa: ARG001 - Airflow uses it
    return create_app()


def test_each_request_has_its_lane(app: Flask) -> None:
    lanes = Lanes(app.url_map)
    assert {request: lanes.find(*request.split(" ")) for request in LANES} == LANES


@pytest.mark.parametrize("request_", LANES)
def test_another_spelling_of_a_path_has_the_same_lane(app: Flask, request_: str) -> None:
    lanes = Lanes(app.url_map)
    method, path = request_.split(" ")
    for spelt in (f"/{path}", f"/%2F{path}", f"/%2f/{path[1:]}", quote(path), path.replace("a", "%61")):
        assert lanes.find(method, unquote(spelt)) is LANES[request_], spelt


def test_each_route_has_a_lane_which_flask_serves(app: Flask) -> None:
    lanes = Lanes(app.url_map)
    adapter = app.url_map.bind("")
    for rule in app.url_map.iter_rules():
        values = {name: 0 if name == "index" else "x" for name in rule.arguments}
        path = adapter.build(rule.endpoint, values)
        for method in rule.methods or ():
            assert adapter.match(path, method)[0] == rule.endpoint
            expected = {
                "contents": Lane.CONTENTS,
                "users": Lane.USERS,
                "page": Lane.USERS,
                "openapi": Lane.USERS,
            }
            assert lanes.find(method, path) is expected.get(rule.endpoint.partition(".")[0], Lane.JOBS), rule


def test_a_blueprint_without_a_lane_is_an_error_at_the_start(app: Flask) -> None:
    app.add_url_rule("/forgotten", endpoint="new.forgotten", view_func=lambda: "")
    with pytest.raises(LookupError, match="'forgotten' of blueprint 'new' has no lane"):
        Lanes(app.url_map)


@pytest.fixture
def services(database: Database, folder: Folder) -> Services:  # noqa: ARG001
    return open_services(folder.options())


@pytest.fixture
def asgi_app(services: Services) -> ASGIApp:
    return create_asgi_app(services, Serving(file_threads=2))


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("asyncaction-")}


@pytest.mark.parametrize(
    ("path", "lane"),
    [
        ("/actions", Lane.USERS),
        ("//actions", Lane.USERS),
        ("///ui/", Lane.USERS),
        ("//nothing", Lane.USERS),
        ("/", Lane.USERS),
        ("/job", Lane.JOBS),
        ("//job", Lane.JOBS),
        ("//task/action", Lane.JOBS),
    ],
)
def test_a_request_takes_a_thread_of_its_lane(asgi_app: ASGIApp, path: str, lane: Lane) -> None:
    before = threads()
    assert 200 <= AsgiClient(asgi_app).request("GET", path).status < 500
    (served_by,) = threads() - before
    assert served_by.name.startswith(f"asyncaction-{lane.value}")


def test_reports_take_a_thread_on_sqlite_which_is_logged(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="airflow_asyncaction")
    assert create_asgi_app(services).fast_reports is None
    assert "Reports of jobs are written one by one: the driver of the metadata database is" in caplog.text


# --- scopes


@pytest.mark.parametrize("path", ["/job", "/", "/actions", "/content/t", "/nothing"])
def test_a_websocket_is_refused(asgi_app: ASGIApp, path: str) -> None:
    client = AsgiClient(asgi_app)
    scope = {"type": "websocket", "path": MOUNT + path, "root_path": MOUNT, "headers": []}
    client.run(scope, [{"type": "websocket.connect"}])
    assert client.sent == [{"type": "websocket.close", "code": 1000, "reason": ""}]


@pytest.mark.parametrize("scope", ["lifespan", "smtp"])
def test_another_scope_is_an_error(asgi_app: ASGIApp, scope: str) -> None:
    with pytest.raises(ValueError, match=f"ASGI scope '{scope}' is not supported"):
        AsgiClient(asgi_app).run({"type": scope}, [])


# --- clients that leave


@pytest.mark.parametrize("messages", [(GONE,), (PART, GONE), (PART, PART, GONE)], ids=len)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/status"), ("PUT", "/etl.load"), ("POST", "/nothing")]
)
def test_a_client_that_leaves_before_its_body_is_complete_is_answered(
    asgi_app: ASGIApp, method: str, path: str, messages: tuple[Message, ...]
) -> None:
    """Airflow's middleware takes an app that returns without an answer for broken: two tracebacks."""
    answer = AsgiClient(asgi_app).request(method, path, messages=messages)
    assert answer.error == (400, "incomplete")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("messages", [(GONE,), (PART, GONE)], ids=len)
def test_a_client_that_leaves_an_upload_is_answered_and_leaves_nothing(
    asgi_app: ASGIApp, services: Services, folder: Folder, new_job: NewJob, messages: tuple[Message, ...]
) -> None:
    with served_alone(create_app(services)) as hook, HookClient(hook) as client:
        url = announce(new_job().on(client), "model", b"content").fields["url"]
    answer = AsgiClient(asgi_app).request("PUT", url.removeprefix(hook), messages=messages)
    assert answer.error == (400, "incomplete")
    assert folder.becomes(set())


@pytest.mark.parametrize("leaves_after", [1, 2, 3])
def test_nothing_is_read_for_a_client_that_has_left(
    asgi_app: ASGIApp, services: Services, new_job: NewJob, leaves_after: int
) -> None:
    content = bytes(50 * CHUNK_BYTES)
    with served_alone(create_app(services)) as hook, HookClient(hook) as client:
        job = new_job().on(client)
        upload(job, "model", content)
        path = locate(job, "model").fields["Location"].removeprefix(hook)
    assert AsgiClient(asgi_app).request("GET", path).body == content
    leaves = AsgiClient(asgi_app, leaves_after=leaves_after)
    assert leaves.request("GET", path).status == 200
    assert len(leaves.sent) <= leaves_after + 2


def test_why_a_content_broke_off_is_logged(
    asgi_app: ASGIApp,
    services: Services,
    folder: Folder,
    new_job: NewJob,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served_alone(create_app(services)) as hook, HookClient(hook) as client:
        job = new_job().on(client)
        upload(job, "model", bytes(2 * CHUNK_BYTES))
        path = locate(job, "model").fields["Location"].removeprefix(hook)
    (stored,) = folder.contents()
    stored.chmod(0o600)
    os.truncate(stored, CHUNK_BYTES)
    with pytest.raises(OSError, match=f"The content is {CHUNK_BYTES} bytes too short"):
        AsgiClient(asgi_app).request("GET", path)
    assert "A download failed after its response had started: The content is" in caplog.text


@pytest.mark.parametrize("size", [b"9" * 5000, b"9" * 30, b"-1", b"1e3", b"\xb2", b""])
def test_any_length_that_is_declared_is_answered(asgi_app: ASGIApp, size: bytes) -> None:
    for method, path in (("PUT", "/content/t"), ("POST", "/status"), ("PUT", "/etl.load")):
        answer = AsgiClient(asgi_app).request(method, path, headers=[(b"content-length", size)])
        assert 400 <= answer.status < 500
