# SPDX-License-Identifier: Apache-2.0
"""Input validation: inputs are checked against their schema in linear time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.json_schema.inputs import MAX_BACKTRACKED, MAX_UNDECLARED, validate_input

UNIQUE = {"properties": {"days": {"uniqueItems": True}}}

values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 1) | st.sampled_from([0.0, 1.0, 0.5, "", "a", "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    try:
        validate_input({"days": value}, schema)
    except UserRefused as error:
        if (error.code, error.more["path"]) != ("invalid_input", "$.days"):
            raise
        return False
    return True


@given(items=st.lists(values, max_size=4))
def test_an_item_is_there_twice_as_jsonschema_has_it(items: list[Any]) -> None:
    assert is_valid(items, UNIQUE) == Draft202012Validator({"uniqueItems": True}).is_valid(items)


def test_many_items_are_compared_once() -> None:
    """jsonschema compares each with each: 8 million times."""
    items = [{"day": number} for number in range(4_000)]
    assert is_valid(items, UNIQUE)
    assert not is_valid([*items, {"day": 1.0}], UNIQUE)


@pytest.mark.parametrize("value", ["a\0b", {"a\0": 1}, [2**64], -(2**63) - 1])
def test_what_a_task_cannot_be_given_is_no_input(value: Any) -> None:
    with pytest.raises(UserRefused, match=r"NUL|64 bits") as refused:
        validate_input({"days": value}, None)
    assert refused.value.code == "invalid_input"


@pytest.mark.parametrize("value", ["\\u0000", 2**64 - 1, -(2**63), 1e308, "\U0001f600"])
def test_what_a_task_can_be_given_is_taken(value: Any) -> None:
    assert json.loads(validate_input({"days": value}, None)) == {"days": value}


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (10**400, {"multipleOf": 0.01}),
        (2**70, {}),
        ("(" * 5000, {"format": "regex"}),
        ("a\0b", {"type": "string"}),
    ],
)
def test_what_cannot_be_checked_is_no_input(value: Any, schema: dict[str, Any]) -> None:
    with pytest.raises(UserRefused) as refused:
        validate_input({"days": value}, {"properties": {"days": schema}})
    assert (refused.value.code, refused.value.more["path"]) == ("invalid_input", "$.days")


@pytest.mark.parametrize(
    "schema",
    [{"properties": {"days": {"pattern": "^(?=a)"}}}, {"properties": 3}, {"$ref": "https://x.example/y"}],
)
def test_an_unusable_schema_is_reported_as_such(schema: dict[str, Any]) -> None:
    """A Dag may have been stored by an older release, or declare its operation by hand."""
    with pytest.raises(UserRefused, match="The operation's schema cannot be used: ") as refused:
        validate_input({"days": 1}, schema)
    assert refused.value.code == "bad_schema"


def test_an_input_has_few_names_that_are_not_declared() -> None:
    """Airflow makes a Param of each, and validates it."""
    declared = {f"d{number}": 1 for number in range(1_000)}
    schema = {"properties": {name: {"type": "integer"} for name in declared}}
    others = {f"o{number}": 1 for number in range(MAX_UNDECLARED)}
    validate_input({**declared, **others}, schema)
    for wrong in ({**others, "one_more": 1}, {f"k{number}": 1 for number in range(60_000)}):
        with pytest.raises(UserRefused, match="names that the schema does not declare") as refused:
            validate_input(wrong, schema)
        assert (refused.value.code, refused.value.more["path"]) == ("invalid_input", "$")


def test_what_airflow_validates_by_its_own_validator_is_small() -> None:
    fits, wrong = ([0] * (MAX_BACKTRACKED - 10), [0] * MAX_BACKTRACKED)
    validate_input({"days": fits}, UNIQUE | {"properties": {}}, is_linear=False)
    validate_input({"days": wrong}, {"properties": {}})
    for value in (wrong, "x" * 64 * MAX_BACKTRACKED):
        with pytest.raises(UserRefused, match="more than 1,000 values") as refused:
            validate_input({"days": value}, {"properties": {}}, is_linear=False)
        assert refused.value.code == "invalid_input"


def test_no_pattern_is_left_to_a_validator_that_backtracks() -> None:
    """An input that matches may take as long as one that does not: what fails first is tried first."""
    schema = {"properties": {"days": {"pattern": "(a+)+b"}}}
    validate_input({"days": "aacab"}, schema)
    with pytest.raises(UserRefused, match="which Airflow would match by backtracking") as refused:
        validate_input({"days": "aacab"}, schema, is_linear=False)
    assert refused.value.code == "bad_schema"
