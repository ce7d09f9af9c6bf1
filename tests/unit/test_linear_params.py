# SPDX-License-Identifier: Apache-2.0
"""Params of operations: Airflow validates them with this package's validator, on server and worker."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import ParamValidationError
from airflow.sdk import DAG, Param
from airflow.sdk.definitions.param import process_params
from airflow.sdk.exceptions import ParamValidationError as TaskParamValidationError
from airflow.serialization.definitions.param import SerializedParamsDict
from airflow.serialization.serialized_objects import DagSerialization

from airflow_asyncaction.dags import async_operation
from airflow_asyncaction.json_schema.dialect import DIALECT
from airflow_asyncaction.operators import LocalActionOperator
from airflow_asyncaction.protocol.operations import TAG

CPU_SECONDS = 100
"""For all rows of the table together: each of them once took as long, or a day."""

MAIL = {"type": "string", "pattern": r"^([a-zA-Z0-9]+)*@x$"}
IDS = {"type": "array", "uniqueItems": True}
SCHEMA: dict[str, Any] = {"properties": {"mail": MAIL, "ids": IDS}, "required": ["mail"]}


def tagged(**params: Param) -> DAG:
    with DAG("tagged", schedule=None, tags=[TAG], params=params) as dag:
        LocalActionOperator(task_id="go", command="true")
    return dag


def as_stored(dag: DAG) -> SerializedParamsDict:
    """Return a Dag's Params as Airflow's API server and scheduler have them."""
    params = DagSerialization.from_dict(DagSerialization.to_dict(dag)).params
    assert isinstance(params, SerializedParamsDict)
    return params


DAGS: dict[str, Callable[[], DAG]] = {
    "operation": lambda: async_operation(id="op", input=SCHEMA),
    "tagged": lambda: tagged(mail=Param(schema=MAIL), ids=Param([], schema=IDS)),
}


@pytest.mark.parametrize("kind", DAGS)
def test_airflow_validates_params_of_operations_by_our_validator(kind: str) -> None:
    dag = DAGS[kind]()
    stored = as_stored(dag)
    given = {"mail": "ann@x", "ids": [1, 2]}
    assert stored.deep_merge(given).validate() == given
    assert process_params(dag, dag.tasks[0], given, suppress_exception=False) == given
    for wrong, said in (
        ({"mail": "ann"}, '"ann" does not match "^([a-zA-Z0-9]+)*@x$"'),
        ({"mail": "ann@x", "ids": [1, 1.0]}, "The list has non-unique elements"),
        ({"mail": "ann@x", "ids": [2**70]}, r"$[0]: An integer has more than 64 bits"),
        ({"mail": 3}, '3 is not of type "string"'),
    ):
        with pytest.raises(ParamValidationError, match=re.escape(said)):
            stored.deep_merge(wrong).validate()
        with pytest.raises(TaskParamValidationError, match=re.escape(said)):
            process_params(dag, dag.tasks[0], wrong, suppress_exception=False)


def test_another_dag_with_the_same_param_keeps_it_as_it_is() -> None:
    param = Param("a", pattern="^a")
    linear = tagged(name=param)
    with DAG("other", schedule=None, params={"name": param}) as other:
        LocalActionOperator(task_id="go", command="true")
    assert linear.params.get_param("name").schema == {"pattern": "^a", "$schema": DIALECT}
    assert other.params.get_param("name").schema == {"pattern": "^a"}


def test_a_mapped_task_leaves_params_as_they_are() -> None:
    """It is made where it runs: too late to refuse a schema."""
    param = Param("b", pattern="^(?!a)b")
    with DAG("mapped", schedule=None, tags=[TAG], params={"name": param}) as dag:
        mapped = LocalActionOperator.partial(task_id="each").expand(command=["true"])
    task = mapped.unmap({"command": "true"})
    assert task.params["name"] == "b"
    assert dag.params.get_param("name").schema == {"pattern": "^(?!a)b"}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"pattern": "^(?=a)b"}, "Param 'mail' of the Dag 'tagged' cannot be used: $.pattern: the pattern"),
        ({"$ref": "https://x.example/mail"}, "it refers to 'https://x.example/mail', which does not exist"),
        ({"type": 3}, "Param 'mail' of the Dag 'tagged' cannot be used: $.type:"),
    ],
)
def test_a_dag_is_refused_at_parse_with_the_name_of_the_param(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        tagged(mail=Param("x", schema=schema))


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"mail": {"pattern": "^(?!a)b"}}, "$.properties.mail.pattern: the pattern '^(?!a)b'"),
        ({"a": {"$ref": "#/$defs/none"}}, "it refers to '#/$defs/none'"),
    ],
)  # fmt: skip
def test_an_operation_is_refused_at_parse_with_its_name(properties: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"etl: input is not a supported JSON Schema: {said}")):
        async_operation(id="etl", input={"properties": properties})


HOSTILE = r"""
import sys
from airflow.sdk.definitions.param import ParamsDict
from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.dags import async_operation
from airflow_asyncaction.runners.routing import matches_pattern
from airflow_asyncaction.json_schema.inputs import validate_input

P = 2**61 - 1  # hash(k * P) is 0
NODE = {"$ref": "#/$defs/node"}
AMBIGUOUS = {"anyOf": [*[{"type": "object", "properties": {"a": NODE}}] * 2, {"type": "null"}]}
TREE = {"anyOf": [{"type": "object", "properties": {"a": NODE, "b": NODE}}, {"type": "null"}]}
TWICE = [{"properties": {"a": NODE}}] * 2
UNEVALUATED = {"allOf": TWICE, "unevaluatedProperties": NODE, "type": ["object", "null"]}

def nested(depth, leaf):
    for _ in range(depth):
        leaf = {"a": leaf}
    return leaf

tree = None
for _ in range(12):
    tree = {"a": tree, "b": tree}
text = "a" * 200_000
ROWS = [
    ("integers with one hash", {"uniqueItems": True}, [k * P for k in range(9_000)], False),
    ("small integers", {"uniqueItems": True}, list(range(9_000)), True),
    ("objects", {"uniqueItems": True}, [{"k": k} for k in range(4_000)], True),
    ("lists and texts", {"uniqueItems": True}, [[k] if k % 2 else str(k) for k in range(6_000)], True),
    ("large integers", {"uniqueItems": True}, [2**70 + k for k in range(9_000)], False),
    ("nested quantifiers", {"pattern": r"^([a-zA-Z0-9]+)*@x$"}, "a" * 27 + "!", False),
    ("nested quantifiers, long", {"pattern": r"^(([a-z])+.)+[A-Z]([a-z])+$"}, text, False),
    ("a match after a failure", {"pattern": r"(a+)+b"}, "a" * 40 + "c" + "ab", True),
    ("names by pattern", {"patternProperties": {r"^(a+)+$": False}}, {"a" * 40 + "!": 1}, True),
    ("a tree", NODE | {"$defs": {"node": TREE}}, tree, True),
    ("deep and wrong", NODE | {"$defs": {"node": TREE}}, nested(60, "no"), False),
    ("ambiguous and wrong", NODE | {"$defs": {"node": AMBIGUOUS}}, nested(60, "no"), False),
    ("ambiguous and right", NODE | {"$defs": {"node": AMBIGUOUS}}, nested(60, None), True),
    ("unevaluated and wrong", NODE | {"$defs": {"node": UNEVALUATED}}, nested(60, "no"), False),
    ("unevaluated and right", NODE | {"$defs": {"node": UNEVALUATED}}, nested(60, None), True),
    ("contains", {"contains": {"const": 0}, "minContains": 3}, [1] * 9_000, False),
    ("multiples", {"items": {"multipleOf": 1e-300}}, [1e300] * 9_000, True),
    ("many wrong items", {"items": {"type": "string"}}, [1] * 9_000, False),
    ("many keys", {"additionalProperties": {"type": "string"}}, {f"k{k}": k for k in range(9_000)}, False),
    *[(f, {"format": f}, c * 250_000, None)
      for f in ("date-time", "email", "uri", "regex", "ipv6", "hostname", "uuid", "idn-hostname", "duration")
      for c in ("a", "a.", "(", "[::", "1")],
]

# as the routes and the command do
for name, schema, value, is_valid in ROWS:
    whole = {"properties": {"x": {key: part for key, part in schema.items() if key != "$defs"}}}
    whole["$defs"] = schema.get("$defs", {})
    try:
        validate_input({"x": value}, whole)
        said = True
    except UserRefused as error:
        assert error.code == "invalid_input" and len(str(error)) < 1000, (name, error)
        said = False
    assert is_valid in (said, None), (name, said)
    # as Airflow's own form and API do
    try:
        params = async_operation(id="op", input=whole).params
        ParamsDict({"x": params.get_param("x")})["x"] = value
        said = True
    except ValueError as error:
        said = False
    assert is_valid in (said, None), (name, said, "Param")

for fields in ({f"k{k}": k for k in range(60_000)}, {f"k{k}": {} for k in range(201)}):
    try:
        validate_input(fields, {"properties": {"text": {}}})
        raise SystemExit("taken")
    except UserRefused as error:
        assert "names that the schema does not declare" in str(error)
assert not matches_pattern("*a" * 100 + "*b", "a" * 250)
print("done")
"""


def test_hostile_inputs_take_no_more_than_their_size(tmp_path: Path) -> None:
    """The limit is the kernel's: what matches or compares may not come back to Python for hours."""
    script = tmp_path / "hostile.py"
    script.write_text(HOSTILE)
    done = subprocess.run(
        [sys.executable, str(script)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS)),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stderr[-3000:]
