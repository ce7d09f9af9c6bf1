# SPDX-License-Identifier: Apache-2.0
"""Jobs of an unmodified webda application: results, errors and stops of its methods."""

from __future__ import annotations

import pytest

from dev.deployment import USER
from tests.requirements import webda_or_skip
from tests.system.scene import PATIENCE_SECONDS, Scene, assert_gone, eventually
from tests.system.users import User

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("started")]

OPERATION = "ShopService.order"


@pytest.fixture(scope="module")
def started(scene: Scene) -> None:
    """Start all runs."""
    webda_or_skip()
    dags = {"webda_jobs", "webda_stops", OPERATION}
    scene.api.wait_for_dags(dags, timeout_seconds=PATIENCE_SECONDS)
    scene.trigger("webda_jobs", "webda_stops")


@pytest.fixture(scope="module")
def ann(scene: Scene) -> User:
    """Return a user with all permissions."""
    return User(scene.deployment, USER)


def assert_order(user: User) -> None:
    """Launch the operation, and look at what it gives."""
    action = user.wait(user.launch(OPERATION, {"article": "pear", "count": 2})["uuid"])
    assert (action["errorMessage"], action["status"]) == (None, "SUCCESS")
    assert action["results"] == {"article": "pear", "total": 6}
    assert action["arguments"] == [OPERATION, {"article": "pear", "count": 2}]
    assert (action["serviceName"], action["method"]) == ("AsyncService", "runOperation")


def test_a_falsy_result_is_the_xcom(scene: Scene, ann: User) -> None:
    assert scene.state_of("webda_jobs", "adds") == "success"
    assert scene.api.xcoms(scene.key("webda_jobs", "adds"))["return_value"] == 0
    uuid = scene.action("webda_jobs", "adds").id
    reports = ann.get(f"/actions/{uuid}/reports")["reports"]
    schemes = {report["kind"]: report["scheme"] for report in reports}
    assert (schemes["RUNNING"], schemes["SUCCESS"]) == ("v1", "v1")
    assert "platform" in ann.get(f"/actions/{uuid}")["agent"]


@pytest.mark.parametrize(
    ("task_id", "name", "said"),
    [
        ("sells", "JobError", "sells is sold out"),
        ("unknown", "JobError", "Method 'steal' not found in service ShopService"),
        (
            "lost",
            "NoReport",
            "the webda application has no service named 'airflow', the value of JOB_ORCHESTRATOR",
        ),
    ],
)
def test_a_failure_is_the_tasks(scene: Scene, task_id: str, name: str, said: str) -> None:
    assert scene.state_of("webda_jobs", task_id) == "failed"
    action = scene.action("webda_jobs", task_id)
    assert (action.state, action.error_name) == ("ERROR", name)
    assert said in (action.error_message or "")
    errors = [entry.error for entry in scene.api.log(scene.key("webda_jobs", task_id)) if entry.error]
    assert len(errors) == 1
    assert said in errors[0]


def test_an_operation_that_is_launched_runs_in_the_application(ann: User) -> None:
    told = ann.get("/?full=true")[OPERATION]
    assert told["input"]["required"] == ["article", "count"]
    assert told["permission"] == "roles CONTAINS 'seller'"
    refused = ann.send("PUT", f"/{OPERATION}", {"article": "pear"})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_input")
    assert_order(ann)


def test_an_operation_that_throws_fails_with_its_error(ann: User) -> None:
    action = ann.wait(ann.launch(OPERATION, {"article": "pear", "count": 0})["uuid"])
    assert (action["status"], action["errorName"]) == ("ERROR", "JobError")  # webda's client gives no name
    assert action["errorMessage"] == "There are no 0 of pear"


def test_a_job_is_stopped(scene: Scene, ann: User) -> None:
    eventually(lambda: "waiting" in scene.events("webda_stops", "waits"), "the method runs")
    uuid = scene.attempt("webda_stops", "waits").id
    assert ann.send("PUT", f"/actions/{uuid}/stop").status_code == 200
    action = scene.ended("webda_stops", "waits")
    assert (action.state, action.error_name, action.verb) == ("STOPPED", "Requested", "STOP")
    assert_gone(action)
