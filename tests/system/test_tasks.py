# SPDX-License-Identifier: Apache-2.0
"""Callables, mapped tasks, pools, trigger rules, callbacks and skipping behave as for any operator."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.system.scene import Scene

pytestmark = pytest.mark.system


def test_an_exception_of_a_callable_fails_its_task_and_names_its_action(scene: Scene) -> None:
    assert scene.state_of("callables", "raises") == "failed"
    action = scene.action("callables", "raises")
    assert (action.state, action.error_name) == ("ERROR", "LookupError")
    assert action.error_message == "there is no table orders"
    scene.end_of("callables")
    assert (scene.folder / "failed-raises").read_text() == "there is no table orders"


def test_trigger_rules_see_how_an_action_ended(scene: Scene) -> None:
    scene.end_of("callables")
    states = {
        task_id: scene.state_of("callables", task_id)
        for task_id in ("rescue", "dependent", "skips", "after_skip")
    }
    assert states == {
        "rescue": "success",
        "dependent": "upstream_failed",
        "skips": "skipped",
        "after_skip": "skipped",
    }
    assert scene.actions("callables", "dependent") == []
    assert scene.actions("callables", "after_skip") == []


def test_what_a_callable_logs_is_in_the_logs_of_its_task_and_its_action(scene: Scene) -> None:
    assert scene.state_of("callables", "logs") == "success"
    lines = ["about to load", "a line of the job's own", "loaded nothing"]
    assert scene.reported_lines(scene.action("callables", "logs")) == lines
    entries = [entry for entry in scene.api.log(scene.key("callables", "logs")) if entry.event in lines]
    assert [entry.event for entry in entries] == lines
    assert [entry.level for entry in entries] == ["info", "warning", "warning"]
    assert scene.api.xcoms(scene.key("callables", "logs"))["return_value"] == 0


def test_an_async_callable_is_awaited(scene: Scene) -> None:
    assert scene.state_of("callables", "awaits") == "success"
    assert scene.api.xcoms(scene.key("callables", "awaits"))["return_value"] == "awaited"
    assert scene.reported_lines(scene.action("callables", "awaits")) == ["awaited"]


def test_a_decorated_function_may_return_the_command(scene: Scene) -> None:
    assert scene.state_of("callables", "commands") == "success"
    assert scene.events("callables", "commands").count("decorated") == 1


def test_mapped_tasks_run_at_the_same_time(scene: Scene) -> None:
    assert scene.end_of("wide") == "success"  # each waits for all others
    assert scene.api.xcoms(scene.key("wide", "add_up"))["return_value"] == 20


def test_a_pool_limits_how_many_run_at_once(scene: Scene) -> None:
    assert scene.end_of("pooled") == "success"
    spans = []
    for task_id in ("one", "two"):
        instance = scene.api.task_instance(scene.key("pooled", task_id))
        spans.append(tuple(datetime.fromisoformat(instance[name]) for name in ("start_date", "end_date")))
    (_, first_end), (second_start, _) = sorted(spans)
    assert first_end <= second_start
