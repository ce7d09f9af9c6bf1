# SPDX-License-Identifier: Apache-2.0
"""Ends of actions and their tasks (PROTOCOL.md, section 4), with results and arguments."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from airflow_asyncaction.protocol.tasks import RESULTS_CHANGED
from tests.system.scene import Scene

pytestmark = pytest.mark.system


@pytest.mark.parametrize(
    ("task_id", "task_state", "state", "error_name", "message"),
    [
        ("success_0", "success", "SUCCESS", None, None),
        ("success_1", "failed", "ERROR", "ExitCodeMismatch", "The job exited with code 1"),
        ("error_0", "failed", "ERROR", "DiskFull", "the disk is full"),
        ("none_0", "success", "SUCCESS", None, None),
        ("long_line", "success", "SUCCESS", None, None),
        ("no_report", "failed", "ERROR", "NoReport", "The job exited with code 0 but reported neither"),
        ("signal", "failed", "ERROR", "Signal", "The job was killed by SIGKILL"),
        ("not_found", "failed", "ERROR", "CommandNotFound", "/nonexistent/program: "),
    ],
)
def test_a_job_ends_as_its_last_word_and_its_exit_say(
    scene: Scene, task_id: str, task_state: str, state: str, error_name: str | None, message: str | None
) -> None:
    assert scene.state_of("ends", task_id) == task_state
    action = scene.action("ends", task_id)
    assert (action.state, action.error_name) == (state, error_name)
    assert (action.error_message or "").startswith(message or "")
    assert (action.error_message is None) is (message is None)


def test_a_job_that_fails_without_a_word_is_explained_by_its_last_20_lines(scene: Scene) -> None:
    assert scene.state_of("ends", "none_3") == "failed"
    action = scene.action("ends", "none_3")
    assert (action.state, action.error_name) == ("ERROR", "ExitCode")
    lines = "\n".join(f"line {number}" for number in range(6, 26))
    assert action.error_message == f"The job exited with code 3\n{lines}"
    events = scene.events("ends", "none_3")
    assert [event for event in events if event.startswith("line ")] == [
        f"line {number}" for number in range(1, 26)
    ]


def test_only_a_success_leaves_its_result_as_xcom(scene: Scene) -> None:
    scene.end_of("ends")
    action_id = scene.action("ends", "success_0").id
    assert scene.api.xcoms(scene.key("ends", "success_0")) == {
        "action_id": action_id,
        "return_value": {"rows": 3},
        "async_action_link": "/dags/ends/runs/"
        + quote(scene.runs["ends"], safe="")
        + "/tasks/success_0/plugin/async_action",
    }
    for task_id in ("success_1", "error_0", "none_3"):
        assert set(scene.api.xcoms(scene.key("ends", task_id))) == {"action_id", "async_action_link"}


@pytest.mark.parametrize(("map_index", "value"), list(enumerate([0, False, "", None, []])))
def test_a_falsy_result_is_kept_unchanged(scene: Scene, map_index: int, value: Any) -> None:
    scene.end_of("results")
    assert scene.action("results", "falsy", map_index).results == json.dumps(value)
    xcoms = scene.api.xcoms(scene.key("results", "falsy", map_index))
    if value is None:
        assert "return_value" not in xcoms  # Airflow stores no None: pulled, it is None again
    else:
        assert xcoms["return_value"] == value
        assert type(xcoms["return_value"]) is type(value)


def test_a_result_that_airflow_would_take_for_an_object_arrives_as_text(scene: Scene) -> None:
    assert scene.state_of("results", "reserved") == "success"
    result = scene.api.xcoms(scene.key("results", "reserved"))["return_value"]
    assert isinstance(result, str)
    assert json.loads(result) == {"__classname__": "builtins.dict", "__type": "set", "__var": [1], "plain": 1}


def test_a_result_that_an_xcom_cannot_hold_has_its_text_in_it(scene: Scene) -> None:
    assert scene.state_of("results", "odd") == "success"
    result = scene.api.xcoms(scene.key("results", "odd"))["return_value"]
    assert result == {"text": '"a\\u0000b"', "numbers": [str(2**70), 2**63], "plain": 1}
    assert RESULTS_CHANGED in scene.events("results", "odd")


@pytest.mark.parametrize(("task_id", "in_environ", "count"), [("small", True, 3), ("large", False, 20_000)])
def test_arguments_of_any_size_reach_the_job(
    scene: Scene, task_id: str, in_environ: bool, count: int
) -> None:
    assert scene.state_of("results", task_id) == "success"
    result = scene.api.xcoms(scene.key("results", task_id))["return_value"]
    assert result == {"in_environ": in_environ, "count": count}
