# SPDX-License-Identifier: Apache-2.0
"""JSON Schema validation: agrees with jsonschema, names the path of each error, refuses costly schemas."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from airflow_asyncaction.json_schema import BadSchema, Mistake, compile_schema, engine, find_mistake
from airflow_asyncaction.json_schema.limits import MAX_DEPTH, MAX_VALUES
from airflow_asyncaction.json_schema.weight import MAX_PATTERNS, MAX_WEIGHT

SELF = {"$ref": "#/$defs/node"}


def mistake(value: Any, schema: dict[str, Any]) -> Mistake:
    found = find_mistake(value, compile_schema(schema))
    assert found is not None
    return found


def nested(depth: int, leaf: Any = None) -> Any:
    for _ in range(depth):
        leaf = {"a": leaf}
    return leaf


# --- verdicts

leaves = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 0.5, "", "a", "ab", "1"])
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)
types = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
assertions = st.fixed_dictionaries(
    {},
    optional={
        "type": types | st.lists(types, min_size=1, max_size=2, unique=True),
        "enum": st.lists(values, min_size=1, max_size=3),
        "const": values,
        "minimum": st.integers(-1, 1),
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "maxLength": st.integers(0, 2),
        "pattern": st.sampled_from(["^a", "b$", "^[0-9]+$"]),
        "minItems": st.integers(0, 2),
        "uniqueItems": st.booleans(),
        "required": st.lists(st.sampled_from("ab"), max_size=2, unique=True),
        "maxProperties": st.integers(0, 2),
    },
)


def applicators(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    schema: st.SearchStrategy[Any] = inner | st.booleans()
    schemas = st.lists(schema, min_size=1, max_size=2)
    return st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("ab"), schema, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), schema, max_size=1),
            "additionalProperties": schema,
            "prefixItems": schemas,
            "items": schema,
            "contains": schema,
            "allOf": schemas,
            "anyOf": schemas,
            "oneOf": schemas,
            "not": schema,
            "if": schema,
            "then": schema,
            "else": schema,
            "dependentSchemas": st.dictionaries(st.sampled_from("ab"), schema, max_size=1),
            "unevaluatedProperties": schema,
            "propertyNames": schema,
            "$ref": st.just("#/$defs/node"),
        },
    )


schemas = st.recursive(assertions, applicators, max_leaves=6)


@given(value=values, schema=schemas, node=assertions)
def test_verdicts_are_those_of_jsonschema(value: Any, schema: dict[str, Any], node: dict[str, Any]) -> None:
    whole = {**schema, "$defs": {"node": node}}
    errors = list(jsonschema.Draft202012Validator(whole).iter_errors(value))
    found = find_mistake(value, compile_schema(whole))
    assert (found is None) == (not errors), found
    if found is not None:
        assert found.message


@pytest.mark.parametrize(
    ("value", "schema", "path", "said"),
    [
        ({"n": "x"}, {"properties": {"n": {"type": "integer"}}}, "$.n", '"x" is not of type "integer"'),
        ({}, {"required": ["n"]}, "$", '"n" is a required property'),
        ({"m": 1}, {"additionalProperties": False}, "$", "Additional properties are not allowed ('m' was"),
        ({"a b": [1, "x"]}, {"properties": {"a b": {"items": {"type": "integer"}}}}, "$['a b'][1]", '"x"'),
        ({"day": "no"}, {"properties": {"day": {"format": "date"}}}, "$.day", '"no" is not a "date"'),
        (["a"], {"items": {"pattern": "^b"}}, "$[0]", '"a" does not match "^b"'),
        ([1, 2], {"prefixItems": [{}, {"type": "string"}]}, "$[1]", '2 is not of type "string"'),
        ({"k1": "x"}, {"patternProperties": {"^k": {"maximum": 1, "type": "number"}}}, "$.k1", "type"),
        ({"m": "x"}, {"additionalProperties": {"type": "integer"}}, "$.m", '"x" is not of type "integer"'),
        ({"a": {"a": 3}}, {"$defs": {"node": {"properties": {"a": SELF}, "type": "object"}}, **SELF},
          "$.a.a", '3 is not of type "object"'),
        ({"a": {"b": "x"}}, {"properties": {"a": {"anyOf": [{"$ref": "#/$defs/o"}, {"type": "null"}]}},
          "$defs": {"o": {"type": "object", "properties": {"b": {"type": "integer"}}}}}, "$.a.b", "integer"),
        ("x", {"anyOf": [{"type": "integer"}, {"type": "null"}]},
          "$", '"x" is not valid under the schema: see its anyOf'),
        (1, {"if": {"type": "integer"}, "then": {"minimum": 2}}, "$", "1 is less than the minimum of 2"),
        (1, {"not": {}}, "$", "1 is not valid under the schema: see its not"),
        ({"n": 1}, {"properties": {"n": False}}, "$.n", "1 is not allowed"),
        ([1, 1], {"uniqueItems": True}, "$", "The list has non-unique elements"),
        ({"a~/b%": 1}, {"properties": {"a~/b%": {"allOf": [{"type": "string"}]}}}, "$['a~/b%']", "string"),
        ({"n": "x"}, {"$id": "https://x.example/s", "properties": {"n": {"$ref": "https://x.example/s#/$defs/i"}},
          "$defs": {"i": {"type": "integer"}}}, "$", "The object is not valid under the schema"),
    ],
)  # fmt: skip
def test_an_error_names_its_place_and_what_is_expected(
    value: Any, schema: dict[str, Any], path: str, said: str
) -> None:
    found = mistake(value, schema)
    assert found.path == path
    assert said in found.message


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({"db_password": "hunter2"}, {"properties": {"db_password": {"type": "integer"}}}),
        (
            {"secret": {"value": "hunter2"}},
            {"properties": {"secret": {"properties": {"value": {"maxLength": 3}}}}},
        ),
        ({"text": "hunter2" * 100_000}, {"properties": {"text": {"format": "date"}}}),
        ({"object": {"k": "hunter2"}}, {"properties": {"object": {"type": "string"}}}),
        ({"list": ["hunter2"]}, {"properties": {"list": {"enum": [1]}}}),
        ({"any": {"password": "hunter2"}}, {"properties": {"any": {"anyOf": [{"type": "string"}]}}}),
    ],
)
def test_no_secret_or_large_value_is_quoted(value: Any, schema: dict[str, Any]) -> None:
    found = mistake(value, schema)
    assert "hunter2" not in found.message
    assert len(found.message) <= 500


@pytest.mark.parametrize(
    "value",
    [
        time(12), time(12, 30, 1, 5, UTC), timedelta(hours=1), timedelta(days=-3, seconds=0.25),
        date(2026, 1, 2), datetime(2026, 1, 2, 3, tzinfo=UTC), UUID(int=1),
    ],
)  # fmt: skip
def test_what_python_writes_has_its_format(value: Any) -> None:
    adapter = TypeAdapter(type(value))
    assert (
        find_mistake(adapter.dump_python(value, mode="json"), compile_schema(adapter.json_schema())) is None
    )


@pytest.mark.parametrize(
    ("format_", "right", "wrong"),
    [
        ("time", ["12:00", "12:00:00", "12:00:00.5Z", "12:00:00+01:00"], ["", "noon", "25:00", "1"]),
        (
            "duration",
            ["P1D", "PT1H", "P1Y2M3DT4H5M6.5S", "P2W", "P0DT3600.000000S"],
            ["", "P", "PT", "P1", "1D"],
        ),
        ("date", ["2026-01-02"], ["2026-02-30", "now"]),
        ("date-time", ["2026-01-02T03:04:05Z"], ["2026-01-02"]),
        ("email", ["ann@example.org"], ["ann"]),
        ("uri", ["s3://bucket/key", "https://example.org/?a=b"], ["nowhere"]),
        ("multiline", ["any"], []),
    ],
)
def test_formats(format_: str, right: list[str], wrong: list[str]) -> None:
    schema = compile_schema({"format": format_})
    assert [text for text in right if find_mistake(text, schema)] == []
    assert [text for text in wrong if not find_mistake(text, schema)] == []


def test_a_mistake_has_a_bounded_length() -> None:
    for value, schema in (
        ({"k" * 10_000: 1}, {"additionalProperties": False}),
        ({"k" * 10_000: 1}, {"additionalProperties": {"type": "string"}}),
        ({}, {"required": ["k" * 10_000]}),
        (1, {"enum": ["k" * 10_000]}),
        ("x", {"pattern": "^" + "k" * 1_000}),
    ):
        found = mistake(value, schema)
        assert len(found.path) + len(found.message) <= 1_000


# --- what is refused before anything costly


@pytest.mark.parametrize(
    ("value", "path", "said"),
    [
        (nested(MAX_DEPTH), None, None),
        (nested(MAX_DEPTH, []), "$" + ".a" * MAX_DEPTH, "nested deeper than 64 levels"),
        (nested(100_000), "$" + ".a" * MAX_DEPTH, "nested deeper than 64 levels"),
        ({"a": [0] * MAX_VALUES}, "$", "more than 10,000 values"),
        ({"a": [{"n": 2**64}]}, "$.a[0].n", "more than 64 bits"),
        ({"a": -(2**63) - 1}, "$.a", "more than 64 bits"),
        ({"a": 10**4000}, "$.a", "more than 64 bits"),
        ({"a": float("inf")}, "$.a", "inf is not JSON"),
        ({"a": ["x\0y"]}, "$.a[0]", "NUL"),
        ({"a": "\ud800"}, "$.a", "surrogate"),
        ({"b": {"a\0": 1}}, "$.b", "NUL"),
        ({"a": [2**64 - 1, -(2**63), 1.5, "é", None, True]}, None, None),
    ],
)  # fmt: skip
def test_an_input_that_airflow_cannot_take_is_refused(value: Any, path: str | None, said: str | None) -> None:
    found = find_mistake(value, None)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert (found.path, said in found.message) == (path, True), found


def doubling(levels: int, keyword: str = "allOf") -> dict[str, Any]:
    """Return a schema that stands for ``2**levels`` others."""
    defs: dict[str, Any] = {
        f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$defs": {**defs, f"d{levels}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def by_anchors(levels: int) -> dict[str, Any]:
    defs: dict[str, Any] = {
        f"d{level}": {"$anchor": f"d{level}", "anyOf": [{"$ref": f"#d{level + 1}"}] * 2}
        for level in range(levels)
    }
    return {"$defs": {**defs, "last": {"$anchor": f"d{levels}"}}, "$ref": "#d0"}


def chain(length: int) -> dict[str, Any]:
    defs: dict[str, Any] = {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(length)}
    return {"$defs": {**defs, f"d{length}": {}}, "$ref": "#/$defs/d0"}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (doubling(30), "more than 10,000 keywords, with references expanded"),
        (doubling(30, "anyOf"), "more than 10,000 keywords"),
        (by_anchors(30), "more than 10,000 keywords"),
        ({"$dynamicAnchor": "d", **doubling(30)}, "more than 10,000 keywords"),
        ({"properties": {"enum": doubling(30)["$defs"]["d0"]}, **doubling(30)}, "more than 10,000 keywords"),
        (chain(3_000), "its references lead through more than 80 schemas"),
        (deep(1_000), "nested deeper than 80 levels|not JSON"),
        (deep(100_000), "not JSON"),
        ({"enum": [{"a": number} for number in range(MAX_WEIGHT)]}, "more than 10,000 keywords"),
        ({"const": "x" * 300_000}, "more than 262,144 bytes"),
        ({"properties": {f"k{at}": {"pattern": "a"} for at in range(MAX_PATTERNS + 1)}}, "than 200 patterns"),
        ({"properties": {"mail": {"pattern": "^(?=a)b"}}},
          r"^\$.properties.mail.pattern: the pattern '\^\(\?=a\)b' cannot be used"),
        ({"properties": {"a": {"items": {"pattern": r"(a)\1"}}}},
          r"^\$.properties.a.items.pattern: .* back-references"),
        ({"patternProperties": {r"^a\Z": {}}}, r"^\$.patternProperties: the pattern .* cannot be used"),
        ({"pattern": "(a{1000}){1000}"}, "Use maxLength for long repetitions"),
        ({"pattern": "(" * 5_000}, r"the pattern '\({99}\.\.\.' cannot"),
        ({"type": 3}, r"^\$.type: "),
        ({"$ref": "#/$defs/none"}, "it refers to '#/[$]defs/none', which does not exist"),
        ({"$ref": "https://x.example/y"}, "which does not exist"),
        ({"$ref": "file:///etc/passwd"}, "which does not exist"),
        ({"$dynamicRef": "#none"}, "which does not exist"),
        ({"default": {1, 2}}, "it is not JSON"),
        ([], "it is not an object"),
    ],
)  # fmt: skip
def test_a_schema_that_may_cost_more_than_its_size_is_refused(schema: Any, said: str) -> None:
    with pytest.raises(BadSchema, match=said) as refused:
        compile_schema(schema)
    assert len(str(refused.value)) <= 500


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"node": {"anyOf": [{"properties": {"a": SELF, "b": SELF}}, {"type": "null"}]}}, **SELF},
        {"allOf": [{"$ref": "#"}]},
        {"$id": "https://x.example/s", "$ref": "https://x.example/s#/$defs/a%20b", "$defs": {"a b": {}}},
        {"$id": "https://x.example/s", "$ref": "item",
          "$defs": {"i": {"$id": "item", "$ref": "#/$defs/j", "$defs": {"j": {}}}}},
        {"$schema": "https://x.example/none", "definitions": {"N": {}}, "$ref": "#/definitions/N"},
        {"properties": {"enum": {"type": "string"}, "$ref": {"const": 1}, "pattern": {"type": "string"}}},
        {"pattern": "^([a-zA-Z0-9]+)*@x$"},
        {"pattern": r"^(\d{1,3}\.){3}\d{1,3}$"},
        doubling(10),
    ],
)  # fmt: skip
def test_other_schemas_can_be_used(schema: dict[str, Any]) -> None:
    compile_schema(schema).is_valid({})


def test_schema_times_input_is_bounded() -> None:
    heavy = compile_schema({"items": {"enum": [{"a": number} for number in range(4_000)]}})
    most = engine.MAX_WORK // heavy.weight.units
    assert most < MAX_VALUES
    fits = [{"a": 1}] * ((most - 100) // 2)
    assert find_mistake(fits, heavy) is None
    found = find_mistake([*fits, *fits], heavy)
    assert found is not None
    assert (found.path, f"which can validate {most:,} values" in found.message) == ("$", True)


def test_text_that_patterns_are_matched_against_is_bounded() -> None:
    text = {"a": "x" * (engine.MAX_MATCHED_CHARS + 1)}
    assert find_mistake(text, compile_schema({"properties": {"a": {"type": "string"}}})) is None
    schemas: list[dict[str, Any]] = [
        {"properties": {"b": {"pattern": "^a$"}}},
        {"patternProperties": {"^b": {}}},
        {"properties": {"b": {"$ref": "#/examples/0"}}, "examples": [{"pattern": "^a$"}]},
    ]
    for schema in schemas:
        assert "262,144 characters" in mistake(text, schema).message
