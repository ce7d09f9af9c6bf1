# SPDX-License-Identifier: Apache-2.0
"""Every example Dag runs unchanged and ends as expected, through Airflow's public REST API."""

from __future__ import annotations

import itertools
from typing import Any
from urllib.parse import quote

import pytest

from tests.requirements import need
from tests.system.conftest import EXAMPLES, ROOT
from tests.system.scene import Scene, eventually

pytestmark = pytest.mark.system

RESULTS: dict[str, dict[str, Any]] = {
    "fan_out": {"add_up": 12},
    "files": {"count": {"customers": 3}, "best": None},
    "nightly": {"vacuum": None, "count": 2},
    "node_job": {"count": {"words": 5, "letters": 23}},
    "python_callable": {"add_up": 42, "notify": "notified everybody about 42"},
    "retries": {"flaky": None},
    "routed": {"total": 42, "archive": None},
    "shell_job": {"report": {"rows": 1200, "from": "sh"}, "describe": "1200 rows came from sh"},
    "unmodified_program": {"copy": None},
}


def test_there_is_a_test_of_every_example() -> None:
    others = {"nightly_pods", "operations", "remote", "stopping"}  # have tests of their own
    files = {path.stem for path in (ROOT / "example_dags").glob("*.py")}
    assert files == {*EXAMPLES, *others} == {*RESULTS, *others}


@pytest.mark.parametrize("dag_id", RESULTS)
def test_an_example_ends_well_with_its_results(scene: Scene, dag_id: str) -> None:
    need(*EXAMPLES[dag_id])
    assert scene.end_of(dag_id) == "success"
    results = {
        task_id: scene.api.xcoms(scene.key(dag_id, task_id)).get("return_value")
        for task_id in RESULTS[dag_id]
    }
    assert results == RESULTS[dag_id]


def test_a_task_has_the_id_of_its_action_and_the_way_to_it_as_xcoms(scene: Scene) -> None:
    scene.end_of("unmodified_program")
    key = scene.key("unmodified_program", "copy")
    run = quote(key.run_id, safe="")
    assert scene.api.xcoms(key) == {
        "action_id": scene.action("unmodified_program", "copy").id,
        "async_action_link": f"/dags/unmodified_program/runs/{run}/tasks/copy/plugin/async_action",
    }


def test_mapped_tasks_have_results_of_their_own(scene: Scene) -> None:
    need(*EXAMPLES["fan_out"])
    scene.end_of("fan_out")
    results = [scene.api.xcoms(scene.key("fan_out", "load", index))["return_value"] for index in range(3)]
    assert results == [2, 4, 6]


def test_each_try_is_an_action_of_its_own(scene: Scene) -> None:
    assert scene.end_of("retries") == "success"
    first, second = scene.actions("retries", "flaky")
    assert (first.attempt, first.state, first.error_name) == (1, "ERROR", "ExitCode")
    assert (second.attempt, second.state, second.error_name) == (2, "SUCCESS", None)
    assert "the disk is full" in scene.events("retries", "flaky", try_number=1)
    assert "try 2" in scene.events("retries", "flaky", try_number=2)
    assert scene.late_report(first) == (410, "superseded")


def test_lines_of_a_wrapped_program_are_logged_once(scene: Scene) -> None:
    scene.end_of("unmodified_program")
    printed = ["copying customers", "copying orders", "copying invoices", "nothing was dropped"]
    events = scene.events("unmodified_program", "copy")
    assert [events.count(line) for line in printed] == [1] * len(printed)
    reported = scene.reported_lines(scene.action("unmodified_program", "copy"))
    assert sorted(reported) == sorted(printed)


@pytest.mark.parametrize(
    ("dag_id", "task_id", "lines"),
    [
        ("shell_job", "report", [f"loaded part {number} of 5" for number in range(1, 6)]),
        ("node_job", "count", [f"counted {word}" for word in ("any", "program", "in", "any", "language")]),
        ("python_callable", "add_up", [f"the total is {total} now" for total in (1, 3, 6, 42)]),
    ],
)
def test_reported_lines_are_logged_once_and_in_order(
    scene: Scene, dag_id: str, task_id: str, lines: list[str]
) -> None:
    need(*EXAMPLES[dag_id])
    scene.end_of(dag_id)
    events = scene.events(dag_id, task_id)
    assert [event for event in events if event in lines] == lines
    assert scene.reported_lines(scene.action(dag_id, task_id)) == lines


@pytest.mark.parametrize(("dag_id", "task_id"), [("shell_job", "report"), ("node_job", "count")])
def test_progress_is_logged_without_repeats(scene: Scene, dag_id: str, task_id: str) -> None:
    need(*EXAMPLES[dag_id])
    scene.end_of(dag_id)
    shown = [event for event in scene.events(dag_id, task_id) if event.startswith("progress ")]
    assert shown
    assert shown[-1].startswith("progress 100%")
    assert all(one != other for one, other in itertools.pairwise(shown))


def test_a_job_that_is_marked_failed_may_tidy_up(scene: Scene) -> None:
    scene.trigger("stopping")
    eventually(lambda: "this takes an hour" in scene.events("stopping", "long"), "the job runs")
    scene.api.set_state(scene.key("stopping", "long"), "failed")
    assert scene.end_of("stopping") == "failed"
    action = scene.ended("stopping", "long")
    assert (action.state, action.error_name) == ("STOPPED", "Killed")
    assert scene.events("stopping", "long").count("cleaned up before exit") == 1
