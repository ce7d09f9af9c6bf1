# SPDX-License-Identifier: Apache-2.0
"""Schemas for Airflow's trigger form: they have a type, and accept the same values as before."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from airflow_asyncaction.dags.form_fields import to_form_field
from airflow_asyncaction.dags.schemas import build_params, infer_input_schema


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Node(BaseModel):
    """Refers to itself."""

    n: int
    child: Node | None = None


@dataclass
class Where:
    column: str


ANY = ["string", "number", "boolean", "object", "array", "null"]
# The types, or the choices, by which the form chooses; those of an optional argument have null besides.
FIELDS: dict[Any, Any] = {
    int: "integer",
    float: "number",
    int | float: "number",
    bool: "boolean",
    str: "string",
    dict: "object",
    dict[str, int]: "object",
    Where: "object",
    Node: "object",
    list: "array",
    list[str]: "array",
    list[Node]: "array",
    set[int]: "array",
    tuple[int, str]: "array",
    date: "string",
    datetime: "string",
    time: "string",
    timedelta: "string",
    uuid.UUID: "string",
    Path: "string",
    Decimal: ["string", "number"],
    int | str: ["string", "integer"],
    dict | list: ["object", "array"],
    Colour: ["red", "blue"],
    Level: [1, 2],
    Literal["a", "b"]: ["a", "b"],
    Literal["a"]: ["a"],
    Literal[3, 4]: [3, 4],
    Literal["a", 1]: ["a", 1],
    Annotated[int, Field(ge=1, description="x")]: "integer",
}
ITEMS: dict[Any, Any] = {
    list: ANY,
    list[Any]: ANY,
    list[str]: "string",
    list[date]: "string",
    list[int]: "integer",
    list[int | None]: ["integer", "null"],
    list[str | None]: ["string", "null"],
    list[Node]: "object",
    list[list[str]]: "array",
    set[bool]: "boolean",
    tuple[int, str]: ANY,
}


def field_of(hint: Any, *, is_optional: bool = False) -> dict[str, Any]:
    def required(argument: Any) -> None: ...

    def optional(argument: Any = None) -> None: ...

    function = optional if is_optional else required
    function.__annotations__ = {"argument": hint}
    return dict(build_params(infer_input_schema(function))["argument"].schema)


def chosen_by(field: dict[str, Any]) -> Any:
    return field.get("enum", field["type"])


@pytest.mark.parametrize("hint", FIELDS, ids=str)
def test_each_annotation_has_the_types_by_which_the_form_chooses(hint: Any) -> None:
    assert chosen_by(field_of(hint)) == FIELDS[hint]


@pytest.mark.parametrize("hint", FIELDS, ids=str)
@pytest.mark.parametrize("is_optional", [False, True])
def test_an_annotation_that_takes_none_has_the_same_field_and_null(hint: Any, is_optional: bool) -> None:
    plain, field = field_of(hint), field_of(hint | None, is_optional=is_optional)
    if "enum" in plain:
        assert field["enum"] == [*plain["enum"], None]
    types = plain["type"] if isinstance(plain["type"], list) else [plain["type"]]
    assert field["type"] == [*types, "null"]
    assert field.get("format") == plain.get("format")


@pytest.mark.parametrize("hint", ITEMS, ids=str)
def test_items_have_a_type_since_others_are_taken_for_strings(hint: Any) -> None:
    assert field_of(hint)["items"]["type"] == ITEMS[hint]
    assert field_of(hint | None, is_optional=True)["items"]["type"] == ITEMS[hint]


@pytest.mark.parametrize("hint", [list[Colour], list[Literal["red", "blue"]], set[Colour]], ids=str)
def test_several_of_some_choices_can_be_chosen(hint: Any) -> None:
    assert field_of(hint)["examples"] == field_of(hint | None)["examples"] == ["red", "blue"]


def test_what_may_be_anything_is_typed_as_json() -> None:
    assert field_of(Any)["type"] == ANY


@pytest.mark.parametrize("hint", [Colour, Level, Node, Where])
def test_a_field_is_labelled_by_its_argument_and_not_by_a_class(hint: Any) -> None:
    assert "title" not in field_of(hint)
    assert "title" not in field_of(hint | None, is_optional=True)
    assert field_of(Annotated[int, Field(title="How many")])["title"] == "How many"


NUMBER = {"type": "integer", "minimum": 3}
SCHEMAS: list[Any] = [
    *({"$ref": f"#/$defs/{name}"} for name in ("number", "node", "loop", "nowhere", "own", "deep")),
    {"$ref": "#/$defs/number", "maximum": 7},
    {"$ref": "#/$defs/closed", "properties": {"n": True}},
    {"anyOf": [{"$ref": "#/$defs/number"}, {"type": "null"}]},
    {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "null"}]},
    {"anyOf": [NUMBER, {"type": "null"}], "maximum": 7},
    {"anyOf": [NUMBER]},
    {"anyOf": [NUMBER, True]},
    {"anyOf": [NUMBER, False, {"const": None}]},
    {"anyOf": [{"const": "a"}, {"type": "null"}]},
    {"anyOf": [{"not": {"type": "null"}}, {"type": "null"}]},
    {"anyOf": [{"allOf": [NUMBER]}, {"type": "null"}]},
    {"anyOf": [NUMBER, {"type": "null", "title": "None"}]},
    {"anyOf": [NUMBER, {"type": "null", "not": {"const": None}}]},
    {"anyOf": [NUMBER, {"type": "null", "enum": [1]}]},
    {"anyOf": [{"type": "null"}, {"enum": [None]}]},
    {"oneOf": [{"type": ["integer", "null"]}, {"type": "null"}]},
    {"oneOf": [{"enum": ["a", None]}, {"enum": [None]}]},
    {"oneOf": [{"type": "number"}, {"type": "integer"}, {"type": "null"}]},
    {"oneOf": [NUMBER, {"type": "null"}]},
    {"allOf": [{"type": ["integer", "string"]}, {"type": ["string", "null"]}]},
    {"enum": ["a", 1, True, None, [1], {"n": 1}, 1.5]},
    {"const": 1.0},
    {"type": "integer", "const": "never"},
    {"type": "array", "prefixItems": [{"type": "integer"}]},
    {"type": "array", "items": False},
    {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    {"$ref": "#/$defs/tuple", "items": False},
    {},
]
DEFS = {
    "number": NUMBER,
    "node": {"type": "object", "properties": {"n": NUMBER, "child": {"$ref": "#/$defs/node"}}},
    "loop": {"$ref": "#/$defs/loop2"},
    "loop2": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/number"}]},
    "own": {"$id": "http://x/y", "$ref": "#/$defs/z", "$defs": {"z": {"type": "string"}}},
    "deep": {"anyOf": [{"$ref": "#/$defs/deeper"}, {"type": "null"}]},
    "deeper": {"$ref": "#/$defs/number"},
    "closed": {"additionalProperties": False},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}]},
}
atoms = st.sampled_from([None, True, False, 0, 1, 2, 3, 5, 7, 8, 1.5, 3.0, "", "a", "red", "never"])
values = st.one_of(
    atoms,
    st.lists(atoms, max_size=3),
    st.dictionaries(st.sampled_from(["n", "child", "column"]), atoms, max_size=2),
    st.fixed_dictionaries({"child": st.fixed_dictionaries({"n": atoms})}),
    st.lists(st.fixed_dictionaries({"n": atoms}), max_size=2),
)


def takes(schema: Any, value: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


@pytest.mark.parametrize("schema", [*SCHEMAS, {"$ref": "#"}], ids=str)
def test_a_field_accepts_what_its_schema_accepts(schema: Any) -> None:
    whole = {**schema, "$defs": DEFS}
    if schema in ({"$ref": "#"}, {"$ref": "#/$defs/nowhere"}):
        assert to_form_field(whole)["$ref"] == schema["$ref"]  # it is left to who says it
        return
    field = to_form_field(whole)
    Draft202012Validator.check_schema(field)

    @given(values)
    def check(value: Any) -> None:
        assert takes(field, value) == takes(whole, value)

    check()


def test_references_that_lead_to_themselves_by_many_ways_are_not_all_followed() -> None:
    looked_up: list[str] = []

    class Counted(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            looked_up.append(key)
            return super().get(key, default)

    loop = {"anyOf": [{"$ref": "#/$defs/loop"}, {"$ref": "#/$defs/loop"}]}
    assert to_form_field({"$ref": "#/$defs/loop", "$defs": Counted(loop=loop)})["type"] == ANY
    assert len(looked_up) < 10_000


@pytest.mark.parametrize("hint", [*FIELDS, *ITEMS], ids=str)
@pytest.mark.parametrize("or_none", [False, True])
def test_a_field_accepts_what_its_annotation_accepts(hint: Any, or_none: bool) -> None:
    hint = hint | None if or_none else hint

    def function(argument: Any) -> None: ...

    function.__annotations__ = {"argument": hint}
    schema = infer_input_schema(function)
    field = build_params(schema)["argument"].schema

    @given(values)
    def check(value: Any) -> None:
        assert takes(field, value) == takes(schema, {"argument": value})

    check()
