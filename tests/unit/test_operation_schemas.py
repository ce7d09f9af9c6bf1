# SPDX-License-Identifier: Apache-2.0
"""Schemas of operations: as Params, from functions, from webda's file, and arguments from a run's conf."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions._internal.types import NOTSET
from airflow.serialization.serialized_objects import DagSerialization
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from airflow_asyncaction.dags import async_operation, load_operations
from airflow_asyncaction.dags.operators import OperationOperator
from airflow_asyncaction.dags.schemas import (
    build_input,
    build_params,
    check_input_schema,
    convert_arguments,
    infer_input_schema,
    infer_output_schema,
)
from airflow_asyncaction.job import Job
from airflow_asyncaction.protocol.operations import TAG, Declaration
from airflow_asyncaction.runners.webda import RUN_OPERATION

SCHEMA = {
    "type": "object",
    "properties": {
        "table": {"type": "string", "description": "Where to"},
        "rows": {"type": "integer", "default": 10},
        "note": {"type": "string"},
        "mode": {"enum": ["a", "b"]},
        "where": {"$ref": "#/$defs/Where"},
    },
    "required": ["table"],
    "$defs": {"Where": {"type": ["object", "null"]}},
}

WEBDA = {
    "application": {"name": "shop"},
    "operations": {
        "Shop.Import": {"id": "Shop.Import", "input": "Import", "output": "Done", "permission": "role = 'x'"},
        "Shop.Ping": {},
    },
    "schemas": {
        "Import": {
            "type": "object",
            "properties": {
                "files": {"type": "array", "items": {"$ref": "#/schemas/File"}},
                "n": {"$ref": "#/definitions/N"},
            },
            "definitions": {"N": {"type": "integer"}},
            "required": ["files"],
        },
        "File": {
            "type": "object",
            "properties": {
                "name": {"$ref": "#/definitions/Name"},
                "parts": {"items": {"$ref": "#/schemas/File"}},
            },
            "definitions": {"Name": {"type": "string"}},
            "required": ["name"],
        },
        "Done": {"type": "object"},
    },
}


class Point(BaseModel):
    x: int
    y: int = 0


def load(table: str, day: date = date(2026, 1, 2), point: Point | None = None, *, job: Job) -> dict[str, int]:
    """Load a table.

    More.
    """
    return {"n": len(table) + day.day + (point.x if point else 0) + len(str(job))}


def test_required_arguments_have_no_default_and_others_may_be_left_empty() -> None:
    params = build_params(SCHEMA)
    assert params["table"].value is NOTSET
    assert params["rows"].value == 10
    for name in ("note", "mode", "where"):
        assert params[name].value is None
        assert params[name].resolve(None) is None, name
    assert params["table"].description == "Where to"
    assert params["where"].resolve({"a": 1}) == {"a": 1}


def test_what_was_left_empty_in_the_form_is_not_in_the_input() -> None:
    form = {"table": "t", "rows": 3, "note": None, "mode": None, "where": None}
    assert build_input(form, SCHEMA) == {"table": "t", "rows": 3, "where": None}  # where takes null
    assert build_input({}, SCHEMA) == {"rows": 10}
    assert build_input(None, SCHEMA) == {"rows": 10}
    assert build_input({"table": "t", "more": None}, SCHEMA) == {"table": "t", "rows": 10, "more": None}


def test_the_annotations_of_a_function_declare_its_input() -> None:
    schema = infer_input_schema(load)
    Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == {"table", "day", "point"}
    assert schema["required"] == ["table"]
    assert schema["properties"]["day"]["default"] == "2026-01-02"
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"table": "t", "point": {"x": 1}})
    assert not validator.is_valid({"table": "t", "point": {"y": 1}})
    assert infer_output_schema(load) == {"type": "object", "additionalProperties": {"type": "integer"}}


def test_a_function_receives_values_of_its_annotated_types() -> None:
    given = convert_arguments(load, {"table": "t", "day": "2026-11-24", "point": {"x": 4}})
    assert given == {"table": "t", "day": date(2026, 11, 24), "point": Point(x=4)}
    with pytest.raises(ValueError, match="date"):
        convert_arguments(load, {"day": "no"})


def test_a_function_receives_only_parameters_that_it_has() -> None:
    assert infer_input_schema(load)["additionalProperties"] is False
    for given, said in (
        ({"table": "t", "days": "2026-11-24"}, "no argument 'days': did you mean 'day'?"),
        ({"table": "t", "other": 1}, "no argument 'other': it has table, day, point"),
        ({"table": "t", "job": None}, "'job' cannot be an argument"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            convert_arguments(load, given)


def test_a_run_with_an_unknown_argument_is_refused_however_it_was_started() -> None:
    task: Any = async_operation(load).tasks[0]
    run = SimpleNamespace(conf={"table": "t", "dry_run": True})  # Airflow's own form and API take it
    with pytest.raises(ValueError, match="no argument 'dry_run'"):
        task.render_template_fields({"dag_run": run})


def test_a_function_may_take_any_names() -> None:
    def takes_any(table: str, **others: Any) -> None: ...

    async_operation(takes_any, input={"properties": {"table": {}, "other": {}}})
    assert convert_arguments(takes_any, {"table": "t", "more": 1}) == {"table": "t", "more": 1}
    with pytest.raises(ValueError, match="'job'"):
        convert_arguments(takes_any, {"job": 1})


def test_a_schema_has_only_arguments_of_its_function() -> None:
    with pytest.raises(ValueError, match="no argument 'tabel': did you mean 'table'"):
        async_operation(load, input={"properties": {"tabel": {}}})


def test_a_function_cannot_take_what_has_no_name() -> None:
    def takes_any(*tables: str) -> None: ...

    with pytest.raises(TypeError, match="must have names"):
        infer_input_schema(takes_any)


def test_a_function_cannot_take_what_is_no_json() -> None:
    def takes_dag(dag: DAG) -> None: ...

    with pytest.raises(TypeError, match=r"takes_dag\(dag\) has no JSON Schema"):
        infer_input_schema(takes_dag)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "array"}, "schema of an object"),
        ({"type": 3}, "not a supported JSON Schema"),
        ({"properties": 3}, "JSON Schema|properties"),
        ("x", "JSON Schema|object"),
        ({"default": {1, 2}}, "not a supported JSON Schema"),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(schema: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        async_operation(id="op", input=schema)


def test_a_schema_may_leave_out_that_it_is_of_an_object() -> None:
    assert check_input_schema({"properties": {"a": {}}}, what="x")["type"] == "object"


@pytest.mark.parametrize(
    "doc", [None, "", "no json", "[]", '"x"', '{"asyncOperation": 3}', '{"asyncOperation": {"type": 3}}']
)
def test_other_documents_of_a_task_declare_nothing(doc: str | None) -> None:
    assert Declaration.from_doc(doc) is None


def test_a_declaration_survives_as_a_document() -> None:
    declared = Declaration(type="etl.load", input=SCHEMA, output=None, permission="x")
    assert Declaration.from_doc(declared.to_doc()) == declared


def test_a_function_becomes_a_dag() -> None:
    dag = async_operation(load)
    assert dag.dag_id == "load"
    assert TAG in dag.tags
    assert dag.description == "Load a table."
    assert dag.is_paused_upon_creation is False
    (task,) = dag.tasks
    declared = Declaration.from_doc(task.doc_json)
    assert declared is not None
    assert (declared.type, declared.input) == ("load", infer_input_schema(load))


def test_a_decorator_takes_options() -> None:
    dag = async_operation(id="my.load", type="etl.load", tags=["mine"], action={"retries": 2})(load)
    assert (dag.dag_id, set(dag.tags)) == ("my.load", {TAG, "mine"})
    assert dag.tasks[0].retries == 2
    declared = Declaration.from_doc(dag.tasks[0].doc_json)
    assert declared is not None
    assert declared.type == "etl.load"


def test_a_scheduled_operation_needs_defaults() -> None:
    with pytest.raises(Exception, match="required params without default"):
        async_operation(schedule="@daily")(load).validate()


def test_an_operation_needs_a_name() -> None:
    with pytest.raises(ValueError, match="an id or a type"):
        async_operation(input=SCHEMA)


def test_webdas_file_becomes_one_dag_an_operation(tmp_path: Path) -> None:
    file = tmp_path / "operations.json"
    file.write_text(json.dumps(WEBDA))
    dags = load_operations(file, tags=["more"])
    assert set(dags) == {"Shop.Import", "Shop.Ping"}
    assert set(dags["Shop.Import"].tags) == {TAG, "shop", "more"}
    declared = Declaration.from_doc(dags["Shop.Import"].tasks[0].doc_json)
    assert declared is not None
    assert declared.permission == "role = 'x'"
    assert declared.output == {"type": "object"}
    validator = Draft202012Validator(declared.input or {})
    assert validator.is_valid({"files": [{"name": "a", "parts": [{"name": "b"}]}], "n": 3})
    assert not validator.is_valid({"files": [{"name": "a", "parts": [{"name": 3}]}]})
    assert not validator.is_valid({"files": [], "n": "x"})
    assert build_params(declared.input or {})["files"].resolve([{"name": "a"}]) == [{"name": "a"}]


def test_webdas_operations_are_run_by_its_own_job(tmp_path: Path) -> None:
    file = tmp_path / "operations.json"
    file.write_text(json.dumps(WEBDA))
    dags = load_operations(file, orchestrator="AsyncService", action={"retries": 2})
    task = dags["Shop.Import"].tasks[0]
    assert isinstance(task, OperationOperator)
    assert (task.service_name, task.method, task.orchestrator) == (
        "AsyncService",
        RUN_OPERATION,
        "AsyncService",
    )
    assert (task.options.require_report, task.retries) == (True, 2)
    given = {"files": [{"name": "{{ 6 * 7 }}"}]}
    for _ in range(2):  # also if it is rendered again
        task.render_template_fields({"dag_run": SimpleNamespace(conf=given)})
        assert task.arguments == ["Shop.Import", given]


def test_a_method_gets_the_input_after_its_other_arguments() -> None:
    call = {"service_name": "ShopService", "method": "sell", "arguments": ["{{ tenant }}"]}
    dag = async_operation(id="sell", input=SCHEMA, action=call)
    (task,) = dag.tasks
    task.render_template_fields({"dag_run": SimpleNamespace(conf={"table": "t"}), "tenant": "one"})  # type: ignore[typeddict-unknown-key]
    assert cast("OperationOperator", task).arguments == ["one", {"rows": 10, "table": "t"}]


@pytest.mark.parametrize("arguments", ["{{ [tenant, 2] }}", "ab"])
def test_arguments_that_are_rendered_to_a_string_are_an_error(arguments: str) -> None:
    call = {"service_name": "ShopService", "method": "sell", "arguments": arguments}
    (task,) = async_operation(id="sell", input=SCHEMA, action=call).tasks
    with pytest.raises(ValueError, match="arguments is of type str: with service_name it must be a list"):
        task.render_template_fields({"dag_run": SimpleNamespace(conf={"table": "t"}), "tenant": "one"})  # type: ignore[typeddict-unknown-key]


def test_arguments_may_be_rendered_to_a_list() -> None:
    call = {"service_name": "ShopService", "method": "sell", "arguments": "{{ [tenant, 2] }}"}
    dag = async_operation(id="sell", input=SCHEMA, action=call, render_template_as_native_obj=True)
    (task,) = dag.tasks
    context: Any = {"dag_run": SimpleNamespace(conf={"table": "t"}), "tenant": "one"}
    task.render_template_fields(context)
    assert cast("OperationOperator", task).arguments == ["one", 2, {"rows": 10, "table": "t"}]


REFERRING: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "$id": "https://shop.example/import",
    "type": "object",
    "required": ["n"],
    "properties": {
        "n": {"$ref": "#/definitions/N"},
        "of_definitions": {"$ref": "#/definitions/N"},
        "of_defs": {"type": "array", "items": {"$ref": "#/$defs/M"}},
        "of_property": {"$ref": "#/properties/of_defs"},
        "of_all": {"allOf": [{"$ref": "#/definitions/N"}], "type": "integer"},
        "of_whole": {"$ref": "#"},
        "of_anchor": {"$ref": "#small"},
    },
    "definitions": {"N": {"type": "integer"}},
    "$defs": {
        "M": {"type": "object", "properties": {"n": {"$ref": "#/definitions/N"}}},
        "S": {"$anchor": "small", "type": "integer", "maximum": 9},
    },
}


@pytest.fixture(scope="module")
def triggered() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what gives a run's Params, as Airflow's API server has them of a Dag with references."""
    dag = async_operation(id="referring", input=REFERRING)
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    return lambda conf: stored.params.deep_merge(conf).validate()


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("n", 3, "x"),
        ("of_definitions", 3, "x"),
        ("of_defs", [{"n": 3}], [{"n": "x"}]),
        ("of_property", [{"n": 3}], [{"n": "x"}]),
        ("of_all", 3, "x"),
        ("of_whole", {"n": 3, "of_whole": {"n": 4}}, {"n": 3, "of_whole": {"n": "x"}}),
        ("of_anchor", 9, 10),
    ],
)
def test_params_accept_what_they_refer_to(
    triggered: Callable[[dict[str, Any]], dict[str, Any]], name: str, value: Any, wrong: Any
) -> None:
    given = triggered({"n": 1, name: value})
    assert given[name] == value
    assert all(given[other] is None for other in REFERRING["properties"] if other not in ("n", name))
    assert build_input({"n": 1, **given}, REFERRING) == {"n": 1, name: value}
    with pytest.raises(Exception, match=f"Invalid input for param {name}"):
        triggered({"n": 1, name: wrong})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "is not JSON"),
        ("[]", "operations must be an object"),
        ('{"operations": []}', "operations must be an object"),
        ('{"operations": {"a": 3}}', "operations.a is not an object"),
        ('{"operations": {"a": {"input": "X"}}}', "is 'X', which is not in schemas"),
        ('{"operations": {"a": {"input": 3}}}', "must be a schema or the name of one"),
        ('{"operations": {"a": {"input": {"type": "array"}}}}', "schema of an object"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "operations.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=said):
        load_operations(file)
