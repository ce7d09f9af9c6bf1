# SPDX-License-Identifier: Apache-2.0
"""Inputs of operations: parsed and validated before anything is launched."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.json_schema.dialect import DIALECT
from airflow_asyncaction.json_schema.engine import CompiledSchema, compile_schema
from airflow_asyncaction.json_schema.limits import MAX_VALUES, TooLarge, measure
from airflow_asyncaction.json_schema.mistakes import find_mistake
from airflow_asyncaction.json_schema.weight import BadSchema
from airflow_asyncaction.protocol.operations import Schema
from airflow_asyncaction.protocol.reports import parse_object
from airflow_asyncaction.protocol.strict_json import JsonText, dumps, has_more_values

MAX_UNDECLARED = 200
"""Maximum number of undeclared names in an input. Airflow creates a Param for each, which takes 1 ms."""
MAX_BACKTRACKED = 1_000
"""Maximum number of values in an input whose Params Airflow validates with a backtracking validator."""


def parse_input(body: bytes) -> dict[str, Any]:
    """Parse the input of an operation.

    :raises UserRefused: it has more than ``MAX_VALUES`` values
    :raises MalformedRequest: it is not a JSON object
    """
    if has_more_values(body.decode("utf-8", "replace"), MAX_VALUES):
        raise _invalid_input("$", f"The input has more than {MAX_VALUES:,} values: use a file instead")
    return parse_object(body)


def validate_input(fields: Mapping[str, Any], schema: Schema | None, *, is_linear: bool = True) -> JsonText:
    """Validate the input of an operation, and return it as JSON with sorted names.

    :param schema: JSON Schema of the operation; ``None`` checks the limits only
    :param is_linear: whether Airflow, which validates the input again, also does so in linear time
    :raises UserRefused: the input is invalid or too large; the message names the first mistake
    """
    undeclared = fields.keys() - _declared_names(schema)
    if len(undeclared) > MAX_UNDECLARED:
        raise _invalid_input(
            "$",
            f"The input has {len(undeclared):,} names that the schema does not declare. At most"
            f" {MAX_UNDECLARED} are allowed: put them into one object",
        )
    compiled_schema = None if schema is None else _compile(schema)
    if not is_linear:
        _check_small(fields, compiled_schema)
    mistake = find_mistake(fields, compiled_schema)
    if mistake is not None:
        raise _invalid_input(mistake.path, mistake.message)
    return dumps(dict(sorted(fields.items())))


def _compile(schema: Schema) -> CompiledSchema:
    try:
        return compile_schema(schema)
    except BadSchema as error:
        raise _bad_schema(str(error)[:300]) from error


def _check_small(fields: Mapping[str, Any], schema: CompiledSchema | None) -> None:
    """Check that Airflow's own validator can validate an input quickly.

    :raises UserRefused: the input is too large, or the schema has a pattern
    """
    if schema is not None and schema.weight.has_patterns:
        raise _bad_schema(
            "it has a pattern, which Airflow would match by backtracking. Give each Param of the Dag the"
            f" $schema {DIALECT!r}, or add an unmapped task of airflow_asyncaction to the Dag"
        )
    try:
        is_small = measure(fields).units <= MAX_BACKTRACKED
    except TooLarge as error:
        raise _invalid_input(error.path, str(error)) from None
    if not is_small:
        message = (
            f"The input has more than {MAX_BACKTRACKED:,} values or too much text. Larger inputs need a Dag"
            " with an unmapped task of airflow_asyncaction"
        )
        raise _invalid_input("$", message)


def _declared_names(schema: Schema | None) -> AbstractSet[str]:
    properties = (schema or {}).get("properties")
    return properties.keys() if isinstance(properties, dict) else frozenset()


def _bad_schema(reason: str) -> UserRefused:
    return UserRefused(f"The operation's schema cannot be used: {reason}", code="bad_schema")


def _invalid_input(path: str, reason: str) -> UserRefused:
    return UserRefused(f"{path}: {reason}", code="invalid_input", path=path)
