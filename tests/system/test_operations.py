# SPDX-License-Identifier: Apache-2.0
"""Operations: users and services launch them, as Airflow's permissions allow, and follow them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)

from dev.airflow_api import AirflowApiError
from dev.deployment import USER
from tests.system.scene import PATIENCE_SECONDS, Scene, eventually
from tests.system.users import User, error

pytestmark = pytest.mark.system

OPERATIONS = {
    *("echo.Import", "echo.said", "etl.fails", "etl.flaky", "etl.load"),
    *("tagged", "tagged_later", "tagged_mapped"),
}
OF_A_DAG = {"run", "task", "mapIndex", "iteration"}
"""Filters that require ``dag``."""
DESCRIBED = (
    "downloadFile",
    "getAction",
    "getChanges",
    "getLogs",
    "getReports",
    "launchOperation",
    "listActions",
    "listFiles",
    "listOperations",
    "stopAction",
)


@pytest.fixture(scope="module")
def ann(scene: Scene) -> User:
    """Return a user with all permissions, once all operations are parsed."""
    scene.api.wait_for_dags(OPERATIONS, timeout_seconds=PATIENCE_SECONDS)
    for dag_id in ("tagged", "tagged_later", "tagged_mapped"):
        scene.api.unpause(dag_id)
    return User(scene.deployment, USER)


@pytest.fixture(scope="module")
def viewer(scene: Scene, ann: User) -> User:  # noqa: ARG001 - what it waits for
    """Return a user who may see everything and change nothing."""
    return User(scene.deployment, "viewer")


@pytest.fixture(scope="module")
def loaded(ann: User) -> dict[str, Any]:
    """Return an action that ended, with a log line, a result and a file."""
    action = ann.launch("etl.load", {"table": "orders", "day": "2026-11-24"})
    return ann.wait(action["uuid"])


def test_operations_are_listed_with_their_schemas(ann: User) -> None:
    ids = ann.get("/")
    assert set(ids) >= OPERATIONS
    assert ids == sorted(ids)
    told = ann.get("/?full=true")
    assert list(told) == ids
    load = told["etl.load"]
    assert load["input"]["properties"]["day"] == {
        "type": "string",
        "format": "date",
        "default": "2026-01-02",
    }
    assert load["input"]["required"] == ["table"]
    assert load["output"]["type"] == "object"
    assert (load["description"], load["permission"]) == ("Load a table.", "role = 'loader'")
    assert told["echo.Import"]["input"]["$defs"]["File"]["required"] == ["name"]
    assert told["tagged"]["input"]["properties"] == {"n": {"type": "integer", "default": 1}}
    assert told["tagged_later"]["type"] == "echo.second"


def test_an_operation_runs_and_returns_its_results(ann: User, scene: Scene, loaded: dict[str, Any]) -> None:
    assert (loaded["status"], loaded["results"]) == ("SUCCESS", {"table": "orders", "weekday": 2})
    assert (loaded["type"], loaded["requestedBy"]) == ("etl.load", USER)
    run = scene.api.dag_run("etl.load", loaded["runId"])
    assert run["conf"] == {"table": "orders", "day": "2026-11-24"}
    assert run["triggering_user_name"] == USER
    logs = ann.get(f"/actions/{loaded['uuid']}/logs")
    assert [line["message"] for line in logs["lines"] if "stream" not in line] == ["loaded orders"]
    kinds = [report["kind"] for report in ann.get(f"/actions/{loaded['uuid']}/reports")["reports"]]
    assert kinds[:2] == ["queued", "registered"]
    assert {"launched", "RUNNING", "exit"} <= set(kinds)


def test_airflows_own_api_starts_the_same(ann: User, scene: Scene) -> None:
    scene.trigger("etl.load", conf={"table": "by hand"})
    assert scene.end_of("etl.load") == "success"
    (action,) = ann.get(f"/actions?dag=etl.load&run={quote(scene.runs['etl.load'], safe='')}")["actions"]
    done = ann.get(f"/actions/{action['uuid']}")
    assert (done["status"], done["results"]["table"]) == ("SUCCESS", "by hand")
    assert (done["requestedBy"], done["arguments"]["seconds"]) == (None, 0)
    with pytest.raises(AirflowApiError, match="Invalid input for param day"):
        scene.trigger("etl.load", conf={"table": "t", "day": 3})
    scene.trigger("etl.load", conf={"table": "t", "second": 3})
    assert scene.end_of("etl.load") == "failed"


def test_it_is_in_airflows_audit_log(scene: Scene, loaded: dict[str, Any]) -> None:
    entries = scene.api._call("GET", "/eventLogs", query={"dag_id": "etl.load", "event": "trigger_dag_run"})
    assert loaded["runId"] in str(entries["event_logs"])
    assert {entry["owner"] for entry in entries["event_logs"]} == {USER}


def test_its_files_can_be_had(ann: User, loaded: dict[str, Any]) -> None:
    (file,) = ann.get(f"/actions/{loaded['uuid']}/files")["files"]
    assert (file["property"], file["role"], file["name"]) == ("report", "output", "report.py")
    answer = ann.send("GET", f"/actions/{loaded['uuid']}/files/report/0")
    assert answer.status_code == 302
    content = requests.get(requests.compat.urljoin(ann.hook, answer.headers["Location"]), timeout=60)
    assert len(content.content) == file["size"]
    assert content.headers["Content-Disposition"].startswith("attachment")


def test_the_action_is_there_at_once(ann: User) -> None:
    action = ann.launch("echo.said", {"text": "at once"})
    assert (action["status"], action["isDone"]) == ("QUEUED", False)
    assert ann.get(f"/actions/{action['uuid']}")["uuid"] == action["uuid"]
    assert ann.wait(action["uuid"])["results"] == {"type": "echo.said", "text": "at once"}


def test_an_input_is_never_rendered_as_a_template(ann: User) -> None:
    action = ann.launch("echo.said", {"text": "{{ 6 * 7 }} {% raw %}"})
    assert ann.wait(action["uuid"])["results"]["text"] == "{{ 6 * 7 }} {% raw %}"


@pytest.mark.parametrize(
    ("operation", "body", "path"),
    [
        ("echo.said", {"text": 3}, "$.text"),
        ("echo.said", {"text": "x" * 41}, "$.text"),
        ("echo.said", {}, "$"),
        ("echo.said", {"text": "a\0b"}, "$.text"),
        ("echo.said", {"text": "x", "more": 1}, "$"),
        ("etl.load", {"table": "t", "day": "yesterday"}, "$.day"),
        ("etl.load", {"table": "t", "second": 3}, "$"),
        ("echo.Import", {"files": [{"name": "a"}, {"name": 3}]}, "$.files[1].name"),
        ("tagged", {"n": "x"}, "$.n"),
    ],
)
def test_a_wrong_input_is_refused_with_its_path(
    ann: User, operation: str, body: dict[str, Any], path: str
) -> None:
    answer = ann.send("PUT", f"/{operation}", body)
    assert error(answer) == (400, "invalid_input")
    assert answer.json()["path"] == path


@pytest.mark.parametrize("body", [[], "x", None, 3])
def test_an_input_is_an_object(ann: User, body: Any) -> None:
    if body is None:  # nothing at all is an empty object
        assert error(ann.send("PUT", "/echo.said")) == (400, "invalid_input")
    else:
        assert error(ann.send("PUT", "/echo.said", body)) == (400, "malformed")


def test_what_is_no_operation_cannot_be_launched(ann: User) -> None:
    for name in ("shell_job", "nothing", "a b"):
        assert error(ann.send("PUT", f"/{name}", {}))[0] in (404, 405), name


def test_twenty_calls_with_one_key_are_one_run(ann: User, scene: Scene) -> None:
    def launch(_: int) -> str:
        return str(ann.launch("echo.said", {"text": "once"}, Idempotency_Key="only-once")["uuid"])

    with ThreadPoolExecutor(20) as threads:
        uuids = set(threads.map(launch, range(20)))
    (uuid,) = uuids
    assert ann.wait(uuid)["status"] == "SUCCESS"
    assert launch(0) == uuid  # also when it is over
    runs = scene.api._call("GET", "/dags/echo.said/dagRuns", query={"limit": 100})["dag_runs"]
    assert [run["conf"] for run in runs].count({"text": "once"}) == 1
    other = ann.send("PUT", "/echo.said", {"text": "twice"}, Idempotency_Key="only-once")
    assert error(other) == (422, "idempotency_key_reused")


def test_an_operation_runs_at_its_time(ann: User) -> None:
    at = datetime.now(UTC) + timedelta(seconds=4)
    action = ann.launch("echo.said", {"text": "later"}, f"?schedule={int(at.timestamp() * 1000)}")
    assert action["status"] == "SCHEDULED"
    assert abs(datetime.fromisoformat(action["scheduledAt"]) - at) < timedelta(milliseconds=2)
    assert datetime.fromisoformat(ann.wait(action["uuid"])["startedAt"]) >= at


@pytest.mark.parametrize("when", ["tomorrow", "2026-11-24", "2026-11-24T10:00:00", "-1", "9" * 16, ""])
def test_a_time_that_makes_no_sense_is_refused(ann: User, when: str) -> None:
    answer = ann.send("PUT", f"/echo.said?schedule={when}", {"text": "x"})
    assert error(answer) == (400, "malformed")
    assert answer.json()["field"] == "schedule"


def test_who_may_only_look_only_looks(ann: User, viewer: User, loaded: dict[str, Any]) -> None:
    assert viewer.get("/") == []
    assert error(viewer.send("PUT", "/echo.said", {"text": "x"})) == (403, "forbidden")
    assert viewer.get(f"/actions/{loaded['uuid']}")["canStop"] is False
    assert viewer.get("/actions?dag=etl.load")["actions"]
    later = ann.launch("echo.said", {"text": "x"}, "?schedule=2100-01-01T00:00:00Z")
    assert error(viewer.send("PUT", f"/actions/{later['uuid']}/stop")) == (403, "forbidden")
    assert ann.send("PUT", f"/actions/{later['uuid']}/stop").status_code == 200


def test_nobody_gets_nothing(ann: User, loaded: dict[str, Any]) -> None:
    uuid = loaded["uuid"]
    for path in ("/", "/actions", f"/actions/{uuid}", f"/actions/{uuid}/logs", f"/actions/{uuid}/changes"):
        for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Cookie": "_token=nonsense"}):
            answer = requests.get(ann.hook + path, headers=headers, timeout=60)
            assert error(answer) == (401, "not_signed_in"), (path, headers)


def test_another_origin_cannot_make_a_browser_launch_anything(ann: User) -> None:
    cookie = {"_token": ann.token}
    url = f"{ann.hook}/echo.said"
    assert requests.get(f"{ann.hook}/actions", cookies=cookie, timeout=60).status_code == 200
    forged = requests.put(url, json={"text": "x"}, cookies=cookie, timeout=60)
    assert error(forged) == (403, "csrf")
    own = {"X-Requested-With": "asyncaction"}
    launched = requests.put(url, json={"text": "x"}, cookies=cookie, headers=own, timeout=60)
    assert launched.status_code == 202


def test_a_running_action_is_requested_to_stop(ann: User) -> None:
    action = ann.launch("etl.load", {"table": "t", "seconds": 300})
    ann.wait(action["uuid"], "RUNNING")
    stopping = ann.send("PUT", f"/actions/{action['uuid']}/stop").json()
    assert (stopping["action"], stopping["stopReason"]) == ("STOP", "Requested")
    assert ann.wait(action["uuid"])["status"] in ("STOPPED", "SUCCESS")
    assert error(ann.send("PUT", f"/actions/{action['uuid']}/stop")) == (409, "already_ended")


def test_an_action_that_waits_is_stopped_with_its_run(ann: User, scene: Scene) -> None:
    action = ann.launch("echo.said", {"text": "never"}, "?schedule=2100-01-01T00:00:00Z")
    stopped = ann.send("PUT", f"/actions/{action['uuid']}/stop").json()
    assert (stopped["status"], stopped["errorName"], stopped["isDone"]) == ("STOPPED", "Requested", True)
    assert scene.api.dag_run("echo.said", action["runId"])["state"] == "failed"


def test_a_failed_action_is_not_tried_again_once_it_is_stopped(ann: User, scene: Scene) -> None:
    action = ann.launch("etl.fails", {})
    path = f"/actions/{action['uuid']}"
    failed = ann.wait(action["uuid"])
    assert (failed["status"], failed["isFinal"], failed["nextAttempt"]) == ("ERROR", False, None)
    seen = ann.send("GET", f"{path}/changes?afterLine=9&afterReport=9")
    assert seen.json()["action"]["isFinal"] is False
    weak = f"W/{seen.headers['ETag']}"  # as a proxy that compresses has it
    again = ann.send("GET", f"{path}/changes?afterLine=9&afterReport=9", If_None_Match=weak)
    assert again.status_code == 304
    stopped = ann.send("PUT", f"{path}/stop")
    assert (stopped.status_code, stopped.json()["status"]) == (200, "ERROR")
    assert ann.get(path)["isFinal"] is True
    changed = ann.send("GET", f"{path}/changes?afterLine=9&afterReport=9", If_None_Match=weak)
    assert (changed.status_code, changed.json()["action"]["isFinal"]) == (200, True)
    assert error(ann.send("PUT", f"{path}/stop")) == (409, "already_ended")
    eventually(
        lambda: scene.api.dag_run("etl.fails", action["runId"])["state"] == "failed", "the run has failed"
    )


def test_an_operation_of_mapped_tasks_ends_with_its_run(ann: User) -> None:
    action = ann.launch("tagged_mapped", {})
    done = ann.wait(action["uuid"])
    assert (done["status"], done["taskId"], done["runner"]) == ("SUCCESS", "", None)
    jobs = ann.get(f"/actions?dag=tagged_mapped&run={action['runId']}&task=each")["actions"]
    assert {(job["mapIndex"], job["status"]) for job in jobs} == {(0, "SUCCESS"), (1, "SUCCESS")}


def test_a_dag_that_merely_has_the_tag_ends_with_its_run(ann: User) -> None:
    well, badly = (ann.launch("tagged", {"n": n})["uuid"] for n in (0, 1))
    assert ann.wait(well)["status"] == "SUCCESS"
    failed = ann.wait(badly)
    assert (failed["status"], failed["errorName"]) == ("ERROR", "RunFailed")


def test_the_action_of_a_larger_dag_is_that_of_its_own_task(ann: User) -> None:
    done = ann.wait(ann.launch("tagged_later", {})["uuid"])
    assert (done["taskId"], done["results"]) == ("second", {"type": "echo.second", "a": 1})


def test_an_action_that_failed_tells_of_the_next_try(ann: User) -> None:
    first = ann.launch("etl.flaky", {"fails": 1})["uuid"]
    failed = ann.wait(first)
    assert (failed["status"], failed["isFinal"]) == ("ERROR", False)
    second = eventually(lambda: ann.get(f"/actions/{first}")["nextAttempt"], "the next try's action")
    done = ann.wait(second)
    assert (done["status"], done["attempt"], done["results"]) == ("SUCCESS", 2, 2)
    assert (done["isFinal"], done["nextAttempt"]) == (True, None)


def test_the_last_try_is_final(ann: User) -> None:
    first = ann.launch("etl.flaky", {"fails": 9})["uuid"]
    second = eventually(lambda: ann.get(f"/actions/{first}")["nextAttempt"], "the next try's action")
    assert ann.wait(second)["status"] == "ERROR"
    eventually(lambda: ann.get(f"/actions/{second}")["isFinal"], "its task has failed")


def test_what_has_not_changed_is_not_sent_again(ann: User, loaded: dict[str, Any]) -> None:
    uuid = loaded["uuid"]
    for path in (f"/actions/{uuid}", "/actions?dag=etl.load&limit=1", f"/actions/{uuid}/changes?afterLine=1"):
        first = ann.send("GET", path)
        again = ann.send("GET", path, If_None_Match=first.headers["ETag"])
        assert (first.status_code, again.status_code, again.content) == (200, 304, b""), path


def test_a_list_continues_at_its_cursor(ann: User, loaded: dict[str, Any]) -> None:  # noqa: ARG001
    whole = [action["uuid"] for action in ann.get("/actions?limit=200&status=SUCCESS")["actions"]]
    pages, cursor = [], ""
    while True:
        page = ann.get(f"/actions?limit=3&status=SUCCESS{cursor}")
        pages += [action["uuid"] for action in page["actions"]]
        if page["nextCursor"] is None or len(pages) >= len(whole):
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert pages[: len(whole)] == whole[: len(pages)]


@pytest.fixture(scope="module")
def described(ann: User, loaded: dict[str, Any]) -> Any:
    """Return the description, with ids that exist as well as those that anybody can think of."""
    description = ann.get("/openapi.json")
    later = ann.launch("echo.said", {"text": "x"}, "?schedule=2100-01-01T00:00:00Z")
    uuids = [loaded["uuid"], later["uuid"], "01a20ee4-4af2-7bb1-a676-3cddf341fe8d"]
    description["components"]["parameters"]["uuid"]["schema"] = {"enum": uuids}
    (operation_id,) = (
        parameter
        for parameter in description["paths"]["/{operationId}"]["put"]["parameters"]
        if parameter.get("name") == "operationId"
    )
    operation_id["schema"] = {"enum": ["echo.said", "nothing"]}
    schema = schemathesis.openapi.from_dict(description)
    schema.config.update(base_url=ann.hook)
    return schema


def test_every_route_is_described(described: Any) -> None:
    assert {
        operation.ok().definition.raw["operationId"] for operation in described.get_all_operations()
    } == set(DESCRIBED)


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("operation_id", DESCRIBED)
def test_routes_are_as_they_are_described(
    described: Any, ann: User, operation_id: str, mode: GenerationMode
) -> None:
    operation = described.find_operation_by_id(operation_id)
    excluded = [unsupported_method]  # of "/": POST is the job's
    if operation_id == "launchOperation":  # which inputs are right is for an operation's own schema to say
        excluded += [positive_data_acceptance, negative_data_rejection]

    @settings(suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def compare(case: Any) -> None:
        # A mount of Starlette's has no path with a line break: Airflow itself answers that it is not found.
        assume("%0A" not in case.as_transport_kwargs(base_url=ann.hook)["url"].upper())
        # A description cannot say that these filters require another one.
        assume(operation_id != "listActions" or "dag" in case.query or not OF_A_DAG & case.query.keys())
        case.call_and_validate(headers=ann.headers, excluded_checks=excluded)

    compare()
