# SPDX-License-Identifier: Apache-2.0
"""Mapped tasks in the serialized Dag: they have the same fields as the unmapped task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, BaseOperator, TaskGroup
from airflow.serialization.serialized_objects import DagSerialization

from airflow_asyncaction import runner_config, settings
from airflow_asyncaction.decorators import async_action, async_action_local
from airflow_asyncaction.decorators.kubernetes import async_action_kubernetes
from airflow_asyncaction.operators import (
    AsyncActionOperator,
    KubeActionOperator,
    LocalActionOperator,
    RemoteActionOperator,
    ServiceActionOperator,
)

GIVEN, UPDATED = Asset("given"), Asset("updated")
OPTIONS: Mapping[str, Any] = {
    "type": "etl.load",
    "outlets": [GIVEN],
    "output_assets": {"model": UPDATED, "given": GIVEN},
    "skip_on_exit_code": 99,
    "stop_grace": 3,
}
RUNNER = {"name": "here", "kind": "local", "command": "true", "queue": "big", "concurrency_limit": 2}
# Fields that Airflow itself serializes differently for mapped tasks, whatever the arguments.
WRITTEN_OTHERWISE = {"task_id", "_needs_expansion", "has_retry_policy", "retry_delay"}


def f(n: int = 1) -> str:
    return f"echo {n}"


def operator(kind: type[BaseOperator], expand: Mapping[str, list[Any]], **options: Any) -> None:
    kind(task_id="one", **options, **{name: values[0] for name, values in expand.items()})
    kind.partial(task_id="many", **options).expand(**expand)


def decorated(decorator: Callable[..., Any], **options: Any) -> None:
    decorator(f, task_id="one", **options)(n=1)
    decorator(f, task_id="many", **options).expand(n=[1, 2])


CODES = {name: value for name, value in OPTIONS.items() if name != "skip_on_exit_code"}
MAKERS: Mapping[str, Callable[[], None]] = {
    "local": lambda: operator(LocalActionOperator, {"command": ["true", "false"]}, **OPTIONS),
    "service": lambda: operator(
        ServiceActionOperator, {"op_kwargs": [{"n": 1}, {"n": 2}]}, python_callable=f, **CODES
    ),
    "kubernetes": lambda: operator(KubeActionOperator, {"args": [["1"], ["2"]]}, image="i", **OPTIONS),
    "routed": lambda: operator(AsyncActionOperator, {"arguments": [{"n": 1}, {"n": 2}]}, **OPTIONS),
    "remote": lambda: operator(RemoteActionOperator, {"operation": ["a", "b"]}, outlets=[GIVEN]),
    "@async_action": lambda: decorated(async_action, **CODES),
    "@async_action_local": lambda: decorated(async_action_local, **OPTIONS),
    "@async_action_kubernetes": lambda: decorated(async_action_kubernetes, image="i", **OPTIONS),
}


@pytest.fixture(autouse=True)
def _runners(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AIRFLOW__ASYNCACTION__RUNNERS", json.dumps([RUNNER]))
    for cached in (settings.load, runner_config.load):
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in (settings.load, runner_config.load):
        cached.cache_clear()


def stored(dag: DAG) -> dict[str, dict[str, Any]]:
    """Return the serialized tasks of a Dag."""
    tasks = DagSerialization.to_dict(dag)["dag"]["tasks"]
    return {task["__var"]["task_id"]: task["__var"] for task in tasks}


@pytest.mark.parametrize("name", MAKERS)
def test_all_that_follows_from_what_was_given_is_known_of_mapped_tasks(name: str) -> None:
    with DAG("mapped", schedule=None) as dag:
        MAKERS[name]()
    one, many = stored(dag)["one"], stored(dag)["many"]
    known = {**many, **many["partial_kwargs"]}
    left_out = {*WRITTEN_OTHERWISE, *one["template_fields"]}
    differs = {field: (one[field], known.get(field)) for field in one if known.get(field) != one[field]}
    assert differs.keys() <= left_out, differs
    if name != "remote":
        assert [asset["__var"]["name"] for asset in known["outlets"]] == ["given", "updated"]
        assert '"etl.load"' in known["doc_json"]


def test_defaults_of_a_dag_are_kept_beside_what_is_derived() -> None:
    with DAG("mapped", schedule=None, default_args={"outlets": [GIVEN]}) as dag:
        operator(LocalActionOperator, {"command": ["true"]}, output_assets={"model": UPDATED})
    for task_id in ("one", "many"):
        assert dag.get_task(task_id).outlets == [GIVEN, UPDATED]


@pytest.mark.parametrize("kind", [LocalActionOperator, KubeActionOperator, AsyncActionOperator])
def test_a_task_is_not_mapped_over_assets_that_the_scheduler_could_not_know(kind: Any) -> None:
    with DAG("mapped", schedule=None):
        partial = kind.partial(task_id="many", type="etl.load")
        with pytest.raises(TypeError, match="unmappable or already specified argument: output_assets"):
            partial.expand(output_assets=[{"model": UPDATED}])
        partial.expand(arguments=[{}])


@pytest.mark.parametrize("level", ["task", "task group", "Dag"])
def test_assets_from_default_args_are_known_as_well(level: str) -> None:
    defaults: dict[str, Any] = {"output_assets": {"model": UPDATED}}
    of_task = {"default_args": defaults} if level == "task" else {}
    with (
        DAG("mapped", schedule=None, default_args=defaults if level == "Dag" else {}) as dag,
        TaskGroup("group", default_args=defaults if level == "task group" else {}),  # type: ignore[arg-type]
    ):
        operator(LocalActionOperator, {"command": ["true"]}, **of_task)
    for task_id in ("group.one", "group.many"):
        assert dag.get_task(task_id).outlets == [UPDATED]
    many: Any = dag.get_task("group.many")
    assert many.unmap({"command": "true"}).output_assets == {"model": UPDATED}
