# SPDX-License-Identifier: Apache-2.0
"""Actions that call a method of a service: operator arguments and the environment of webda jobs."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from airflow_asyncaction.decorators import async_action_local
from airflow_asyncaction.exceptions import MalformedRequest
from airflow_asyncaction.operators import (
    AsyncActionOperator,
    KubeActionOperator,
    LocalActionOperator,
    ServiceActionOperator,
)
from airflow_asyncaction.operators.base import BaseActionOperator
from airflow_asyncaction.protocol.actions import Action, State, action_to_json
from airflow_asyncaction.protocol.decisions import Accepted
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Exit, Message, decide
from airflow_asyncaction.protocol.reports import Limits, parse_report
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.protocol.tasks import ActionSpec
from airflow_asyncaction.runners.base import Runner
from airflow_asyncaction.testing import JobServer

NOW = datetime(2026, 11, 24, tzinfo=UTC)
CALL: dict[str, Any] = {"service_name": "ShopService", "method": "add"}


class Named:
    name = "local"


def operator(**parameters: Any) -> LocalActionOperator:
    return LocalActionOperator(**{"task_id": "t", "command": "true", **CALL, **parameters})


def spec(made: BaseActionOperator) -> ActionSpec:
    return made.build_spec(cast("Runner", Named()))


def test_the_call_is_asked_for_with_arguments_by_position() -> None:
    asked = spec(operator(arguments=[1, {"deep": None}], orchestrator="AsyncService"))
    assert (asked.service_name, asked.method, asked.orchestrator) == ("ShopService", "add", "AsyncService")
    assert asked.arguments == '[1, {"deep": null}]'
    assert ActionSpec.from_json(asked.to_json()) == asked


def test_a_method_may_take_no_arguments() -> None:
    assert spec(operator()).arguments == "[]"


def test_other_jobs_have_no_call_and_arguments_by_name() -> None:
    asked = spec(LocalActionOperator(task_id="t", command="true"))
    assert (asked.service_name, asked.method, asked.orchestrator) == (None, None, None)
    assert (asked.arguments, asked.require_report) == ("{}", False)


@pytest.mark.parametrize(("given", "required"), [(None, True), (False, False), (True, True)])
def test_a_webda_job_must_report_unless_the_author_says_otherwise(given: bool | None, required: bool) -> None:
    assert spec(operator(require_report=given)).require_report is required


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"method": None}, "method is missing: pass service_name and method together"),
        ({"service_name": None}, "service_name is missing"),
        ({"arguments": {"a": 1}}, "arguments is of type dict: with service_name it must be a list"),
        ({"orchestrator": ""}, "orchestrator is ''"),
        ({"orchestrator": "a\n"}, "orchestrator is 'a\\n'"),
        ({"orchestrator": 7}, "orchestrator is 7"),
        ({"completion": "report"}, 'completion="report" cannot be combined with service_name'),
    ],
)
def test_a_wrong_call_is_an_error_of_the_dag(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        operator(**parameters)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("arguments", {"a": 1}, "arguments is of type dict"),
        ("arguments", "1, 2", "arguments is of type str"),
        ("arguments", [math.nan], "arguments must be JSON-serializable"),
        ("service_name", "", "service_name is ''"),
        ("method", "a" * 251, "must be 1 to 250 printable characters"),
        ("method", 3, "method is 3"),
    ],
)
def test_what_templates_have_become_is_checked(field: str, value: Any, said: str) -> None:
    made = operator()
    setattr(made, field, value)
    with pytest.raises(ValueError, match=re.escape(said)):
        spec(made)


def test_the_call_is_templated_as_arguments_are() -> None:
    for kind in (LocalActionOperator, ServiceActionOperator, AsyncActionOperator, KubeActionOperator):
        assert {"arguments", "service_name", "method"} <= set(kind.template_fields)
    with DAG("templated", schedule=None):
        made = operator(service_name="{{ name }}Service", method="{{ m }}", arguments=["{{ n }}", 2])
    made.render_template_fields({"name": "Shop", "m": "add", "n": 1})  # type: ignore[typeddict-unknown-key]
    asked = spec(made)
    assert (asked.service_name, asked.method, asked.arguments) == ("ShopService", "add", '["1", 2]')


def test_defaults_of_a_dag_and_decorators_take_them() -> None:
    with DAG("defaults", schedule=None, default_args={**CALL, "orchestrator": "AsyncService"}) as dag:
        LocalActionOperator.partial(task_id="mapped", command="true").expand(arguments=[[1, 2], [3, 4]])
        pods = KubeActionOperator(task_id="pods", image="shop", arguments=[1, 2])

        @async_action_local(arguments=[1])
        def command() -> str:
            return "true"

        command()
    assert pods.arguments == [1, 2]
    made = cast("LocalActionOperator", dag.get_task("command"))
    assert (made.service_name, made.method, made.arguments) == ("ShopService", "add", [1])
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert set(stored.task_ids) == {"mapped", "pods", "command"}


def test_a_list_is_the_methods_arguments_in_a_pod_too() -> None:
    pod = KubeActionOperator(task_id="t", image="shop", arguments=[1, 2], args=["launch"], **CALL)
    assert (pod.arguments, pod.args) == ([1, 2], ["launch"])
    assert spec(KubeActionOperator(task_id="t", image="shop", arguments=[1], **CALL)).arguments == "[1]"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("serviceName", None),
        ("method", None),
        ("method", ""),
        ("serviceName", "a\0b"),
        ("serviceName", "a" * 251),
        ("orchestrator", "\ud800"),
        ("orchestrator", []),
    ],
)
def test_half_a_call_is_malformed(field: str, value: Any) -> None:
    with pytest.raises(MalformedRequest):
        ActionSpec.from_json({**spec(operator()).to_json(), field: value})


def action(**fields: Any) -> Action:
    call = {**CALL, "arguments": JsonText("[1,2]"), "orchestrator": "airflow", "require_report": True}
    return Action(**{"id": JobId("j"), "type": "t", "attempt": 1, "created_at": NOW, **call, **fields})


def test_the_answer_has_what_webda_calls() -> None:
    told = action_to_json(action(), now=NOW)
    assert (told["serviceName"], told["method"], told["arguments"]) == ("ShopService", "add", [1, 2])


@pytest.mark.parametrize(
    ("fields", "reports", "has_hint"),
    [
        ({}, (), True),
        ({}, (b'{"status": "RUNNING"}',), False),
        ({"service_name": None, "method": None}, (), False),
    ],
)
def test_a_webda_job_that_reported_nothing_has_not_found_its_orchestrator(
    fields: dict[str, Any], reports: tuple[bytes, ...], has_hint: bool
) -> None:
    ended = action(**fields)
    messages: list[Message] = [*(parse_report(body, Limits()) for body in reports), Exit(code=0)]
    for message in messages:
        decision = decide(ended, message, NOW)
        assert isinstance(decision, Accepted)
        ended = decision.action
    assert (ended.state, ended.error_name) == (State.ERROR, "NoReport")
    assert ("named 'airflow', the value of JOB_ORCHESTRATOR" in (ended.error_message or "")) is has_hint


def test_the_server_for_tests_does_the_same() -> None:
    with JobServer() as server:
        tested = server.new_job([1, 2], orchestrator="AsyncService", **CALL)
        tested.exit(Exit(code=0))
        with pytest.raises(ValueError, match="service_name and method must be set together"):
            server.new_job(service_name="ShopService")
        assert server.new_job(**CALL).action.arguments == "[]"
    assert tested.environ["JOB_ORCHESTRATOR"] == "AsyncService"
    assert tested.action.error_name == "NoReport"
    assert "'AsyncService'" in (tested.action.error_message or "")
