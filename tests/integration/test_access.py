# SPDX-License-Identifier: Apache-2.0
"""Permissions: our lists match Airflow's own for each role, and Airflow's audit log records changes."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

from airflow_asyncaction.hooks.async_action import AsyncActionHook
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.web.app import create_app
from tests.integration.access_scene import DAGS, GONE, KINDS, SEE_GONE, TEAMS, USERS, Client, scene_database
from tests.integration.airflow_server import AirflowServer, airflow_server
from tests.integration.databases import Database
from tests.integration.running_tasks import running_task
from tests.integration.signed_jobs import HookClient, registered

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Return which auth manager the server has, and whether there are teams."""
    return str(request.param)


@pytest.fixture(scope="module")
def own_database(
    kind: str, migrated: Callable[[str], Database], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    teams = TEAMS if kind == "teams" else {}
    with scene_database(migrated("sqlite"), tmp_path_factory.mktemp("access"), teams) as database:
        yield database


@pytest.fixture(scope="module")
def server(
    own_database: Database,  # noqa: ARG001 - Airflow uses it
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AirflowServer]:
    log = tmp_path_factory.mktemp("server") / "log"
    users = USERS if kind == "fab" else None
    passwords = log.with_name("passwords.json")
    environ = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords), **KINDS[kind]}
    with airflow_server(log, users=users, environ=environ) as server:
        yield server


def _places(actions: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(action["dagId"], action["runId"]) for action in actions}


def test_a_list_matches_airflows_own(server: AirflowServer) -> None:
    everything = Client(server, "admin").listed()
    assert {action["dagId"] for action in everything if action["dagId"] != GONE} == {*DAGS}
    for name in server.tokens:
        client = Client(server, name)
        listed = client.listed()
        known = [action for action in listed if action["dagId"] != GONE]
        assert _places(known) == client.airflow_task_instances(), name
        seen = {action["uuid"] for action in listed}
        for action in everything:
            single = client.send("GET", f"/async/actions/{action['uuid']}")
            assert single.status_code == (200 if action["uuid"] in seen else 404), (name, action)


def test_the_actions_of_a_deleted_dag_are_of_those_who_may_read_its_id(
    server: AirflowServer, kind: str, own_database: Database
) -> None:
    """Airflow's own lists have nothing to compare with: the task instances went with their Dag."""
    with own_database.engine.connect() as connection:
        of_gone = action_table.c.dag_id == GONE
        ids = connection.scalars(select(action_table.c.id).where(of_gone)).all()
    assert len(ids) == 2
    for name in server.tokens:
        client = Client(server, name)
        sees = name in SEE_GONE[kind]
        assert {action["uuid"] for action in client.listed(f"&dag={GONE}")} == (set(ids) if sees else set())
        for uuid in ids:
            status = client.send("GET", f"/async/actions/{uuid}").status_code
            assert status == (200 if sees else 404), name


def test_each_filter_keeps_to_what_a_user_may_see(server: AirflowServer) -> None:
    filters: dict[str, Callable[[dict[str, Any]], bool]] = {
        "&type=any": lambda action: action["type"] == "any",
        "&status=ERROR": lambda action: action["status"] == "ERROR",
        "&status=RUNNING&status=ERROR": lambda action: action["status"] in ("RUNNING", "ERROR"),
        "&dag=dag_a&task=task": lambda action: (action["dagId"], action["taskId"]) == ("dag_a", "task"),
        "&dag=dag_a&mapIndex=3": lambda action: (action["dagId"], action["mapIndex"]) == ("dag_a", 3),
        "&since=2020-01-01T00:00:00Z": lambda _: True,
        "&until=2020-01-01T00:00:00Z": lambda _: False,
        "&dag=dag_a": lambda action: action["dagId"] == "dag_a",
        "&dag=dag_b&type=any": lambda action: (action["dagId"], action["type"]) == ("dag_b", "any"),
        f"&dag={GONE}": lambda action: action["dagId"] == GONE,
    }
    for name in server.tokens:
        client = Client(server, name)
        listed = client.listed()
        for query, is_wanted in filters.items():
            wanted = [action["uuid"] for action in listed if is_wanted(action)]
            assert [action["uuid"] for action in client.listed(query)] == wanted, (name, query)


def test_a_page_does_not_tell_of_actions_that_a_user_may_not_see(server: AirflowServer) -> None:
    for name in server.tokens:
        client = Client(server, name)
        listed = [action["uuid"] for action in client.listed()]
        for limit in range(1, len(listed) + 1):
            page = client.send("GET", f"/async/actions?limit={limit}").json()
            assert [action["uuid"] for action in page["actions"]] == listed[:limit]
            assert page["nextCursor"] == (None if limit == len(listed) else listed[limit - 1]), (name, limit)


def test_an_operation_is_listed_for_users_who_may_launch_it(server: AirflowServer) -> None:
    for name in server.tokens:
        client = Client(server, name)
        launchable = [dag_id for dag_id in DAGS if client.may_launch(dag_id)]
        assert client.send("GET", "/async/").json() == launchable, name
        assert list(client.send("GET", "/async/?full=true").json()) == launchable, name
        for dag_id in DAGS:
            if dag_id not in launchable:
                assert client.send("PUT", f"/async/{dag_id}", {}).status_code in (403, 404), (name, dag_id)


def test_what_a_list_has_not_is_not_behind_it_either(server: AirflowServer) -> None:
    """Every route below an action, of those that read: the routing table has them all."""
    rules = create_app().url_map.iter_rules()
    below = [
        rule.rule for rule in rules if rule.rule.startswith("/actions/") and "GET" in (rule.methods or ())
    ]
    assert len(below) == 6
    paths = [
        rule.replace("<uuid>", "{uuid}").replace("<property_>", "orders").replace("<index:index>", "0")
        for rule in below
    ]
    everything = Client(server, "admin").listed()
    for name in server.tokens:
        client = Client(server, name)
        seen = {action["uuid"] for action in client.listed()}
        for action in everything:
            for path in paths:
                answer = client.send("GET", "/async" + path.format(uuid=action["uuid"]))
                if action["uuid"] not in seen:
                    assert (answer.status_code, answer.json()["error"]) == (404, "no_such_action"), (
                        name,
                        path,
                    )
                    assert action["dagId"] not in answer.text
                else:
                    assert answer.json().get("error") != "no_such_action"


def test_the_routes_that_list_are_these() -> None:
    """A new route that answers with more than one Dag's things is to be compared with Airflow's above."""
    rules = create_app().url_map.iter_rules()
    users = [
        rule.rule for rule in rules if rule.endpoint.startswith("users.") and "GET" in (rule.methods or ())
    ]
    assert {rule for rule in users if "<uuid>" not in rule} == {"/", "/actions"}


# --- the audit log


def audited(client: Client, event: str, dag_id: str) -> list[dict[str, Any]]:
    """Return the rows of Airflow's audit log about a Dag, the newest first."""
    query = f"dag_id={dag_id}&event={event}&order_by=-event_log_id"
    answer = client.send("GET", f"/api/v2/eventLogs?{query}")
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["event_logs"]
    return rows


def stops(client: Client, uuid: str) -> list[str | None]:
    """Return the user who stopped an action, from its timeline."""
    reports = client.send("GET", f"/async/actions/{uuid}/reports").json()["reports"]
    return [report["requestedBy"] for report in reports if report["kind"] == "stop"]


def stop_by_route(client: Client, uuid: str) -> None:
    assert client.send("PUT", f"/async/actions/{uuid}/stop").status_code == 200


def stop_by_hook(client: Client, uuid: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_THERE", client.connection())
        AsyncActionHook("there").stop(uuid)


@pytest.mark.parametrize("stop", [stop_by_route, stop_by_hook])
def test_a_stop_is_in_the_audit_log_as_a_marked_task_is(
    server: AirflowServer, own_database: Database, stop: Callable[[Client, str], None]
) -> None:
    name = next(name for name in server.tokens if name.startswith("user"))
    client, admin = Client(server, name), Client(server, "admin")
    task = running_task(own_database.engine, dag_id="dag_a", map_index=5, has_region=False)
    with HookClient(server.hook) as hook_client:
        job = registered(task, hook_client)
        stop(client, job.info.job_id)
        assert job.report().fields["action"] == "STOP"
    (stopped, *_) = audited(admin, "stop_async_action", "dag_a")
    mark = {"new_state": "failed"}
    path = f"/api/v2/dags/dag_a/dagRuns/{task.run_id}/taskInstances/task/5"
    assert client.send("PATCH", path, mark).status_code == 200
    (marked, *_) = audited(admin, "patch_task_instance", "dag_a")
    for field in ("dag_id", "run_id", "task_id", "owner", "logical_date", "dag_display_name"):
        assert stopped[field] == marked[field], field
    assert (stopped["owner"], stopped["map_index"], stopped["try_number"]) == (name, 5, 1)
    assert json.loads(stopped["extra"]) == {"uuid": job.info.job_id, "method": "PUT"}
    assert stops(client, job.info.job_id) == [name]


def test_who_keeps_a_failed_action_from_its_next_try_is_known(
    server: AirflowServer, own_database: Database
) -> None:
    admin = Client(server, "admin")
    task = running_task(own_database.engine, dag_id="dag_c")
    with HookClient(server.hook) as hook_client:
        job = registered(task, hook_client)
        job.report(status="ERROR")
        job.send_message(Exit(code=1))
    task.set_state(TaskInstanceState.UP_FOR_RETRY)
    path = f"/async/actions/{job.info.job_id}"
    seen = admin.send("GET", f"{path}/changes?afterLine=9&afterReport=9")
    assert admin.send("PUT", f"{path}/stop").status_code == 200
    assert task.row().state == "failed"
    assert audited(admin, "stop_async_action", "dag_c")[0]["run_id"] == task.run_id
    assert stops(admin, job.info.job_id) == ["admin"]
    after = seen.json()["reports"]["reports"][-1]["id"]
    news = admin.send("GET", f"{path}/changes?afterLine=9&afterReport={after}").json()["reports"]["reports"]
    assert [(report["kind"], report["requestedBy"]) for report in news] == [("stop", "admin")]


def test_a_stop_that_is_refused_is_not_in_the_audit_log(server: AirflowServer) -> None:
    admin = Client(server, "admin")
    (running,) = admin.listed("&dag=dag_b&status=RUNNING")
    path = f"/async/actions/{running['uuid']}"
    refused = 0
    for name in server.tokens:
        client = Client(server, name)
        if client.send("GET", path).json().get("canStop") is not True:
            refused += 1
            assert client.send("PUT", f"{path}/stop").status_code in (403, 404), name
    assert refused
    assert audited(admin, "stop_async_action", "dag_b") == []
    assert stops(admin, running["uuid"]) == []


def test_a_launch_is_in_the_audit_log_as_airflow_writes_it(server: AirflowServer) -> None:
    name = next(name for name in server.tokens if name.startswith("user"))
    client, admin = Client(server, name), Client(server, "admin")
    launched = client.send("PUT", "/async/dag_a?schedule=2100-01-01T00:00:00Z", {})
    assert launched.status_code == 202, launched.text
    action = launched.json()
    (run, *_) = audited(admin, "trigger_dag_run", "dag_a")
    assert (run["owner"], json.loads(run["extra"])["method"]) == (name, "POST")
    assert action["runId"] in (run["run_id"], json.loads(run["extra"]).get("dag_run_id"))
    reports = client.send("GET", f"/async/actions/{action['uuid']}/reports").json()["reports"]
    assert [(report["kind"], report["requestedBy"]) for report in reports] == [("queued", name)]
    assert client.send("PUT", f"/async/actions/{action['uuid']}/stop").json()["status"] == "STOPPED"
    assert stops(client, action["uuid"]) == [name]
    assert audited(admin, "stop_async_action", "dag_a")[0]["run_id"] == action["runId"]


# --- what is no request


HEADER = "Host: x\r\nContent-Length: 100\r\n\r\n"
UPGRADE = (
    "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def connected(server: AirflowServer) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


@pytest.mark.parametrize("target", ["POST /async/status", "PUT /async/dag_a", "PUT /async/content/token"])
def test_a_client_that_leaves_costs_one_line(server: AirflowServer, target: str) -> None:
    """Behind all of Airflow's middleware, of which some is broken by an app that does not answer."""
    before, mark = len(server.logged()), secrets.token_hex(4)
    for number, body in enumerate(("", "{", "x" * 99), 1):
        with connected(server) as client:
            client.sendall(f"{target}?{mark} HTTP/1.1\r\n{HEADER}{body}".encode())
        server.logged(mark, times=number)
    lines = [line for line in server.logged()[before:] if "api_jwt.py" not in line]
    ours = [line for line in lines if mark in line]
    assert len(ours) == 3, lines
    assert all("status_code=4" in line for line in ours)
    assert all("request finished" in line for line in lines), lines  # of earlier requests, maybe


@pytest.mark.parametrize("path", ["/async/job", "/async", "/async/", "/async/actions", "/async//job"])
def test_a_websocket_is_answered_like_one_at_no_route(server: AirflowServer, path: str) -> None:
    before = len(server.logged())
    answers = []
    for asked in (path, "/nothing/there"):
        with connected(server) as client:
            client.sendall(f"GET {asked} HTTP/1.1\r\n{UPGRADE}".encode())
            answers.append(client.recv(4096).partition(b"\r\n")[0])
    assert answers[0] == answers[1] == b"HTTP/1.1 403 Forbidden"
    assert "Traceback" not in "\n".join(server.logged()[before:])
