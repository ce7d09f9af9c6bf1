# SPDX-License-Identifier: Apache-2.0
"""OpenAPI description of the user routes, as client generators read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from airflow_asyncaction.web.routes.openapi import openapi

DESCRIPTION = openapi("/async")
OPERATIONS = [
    pytest.param(operation, id=operation["operationId"])
    for path in DESCRIPTION["paths"].values()
    for method, operation in path.items()
    if method != "parameters"
]


def schemas_in(value: Any) -> Iterator[Any]:
    """Return every schema that a value has in it, at any depth."""
    if isinstance(value, dict):
        for name, child in value.items():
            if name in ("schema", "items", "additionalProperties"):
                yield child
            elif name in ("properties", "schemas"):
                yield from child.values()
            elif name in ("oneOf", "anyOf"):
                yield from child
            yield from schemas_in(child)
    elif isinstance(value, list):
        for child in value:
            yield from schemas_in(child)


def test_it_is_valid_openapi() -> None:
    assert DESCRIPTION["openapi"].startswith("3.1.")
    assert [str(error) for error in OpenAPIV31SpecValidator(DESCRIPTION).iter_errors()] == []


def test_schemas_are_objects() -> None:
    schemas = list(schemas_in(DESCRIPTION))
    assert len(schemas) > 100
    assert [schema for schema in schemas if not isinstance(schema, dict)] == []  # generators know no true


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_a_route_takes_and_answers_has_a_name(operation: dict[str, Any]) -> None:
    contents = [
        content["schema"]
        for part in (operation.get("requestBody", {}), *operation["responses"].values())
        for content in part.get("content", {}).values()
    ]
    for schema in contents:
        for each in schema.get("oneOf", [schema]):
            assert "$ref" in each or each["type"] == "array"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_and_parameter_is_described(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert len(operation["tags"]) == 1
    for parameter in operation.get("parameters", []):
        assert "$ref" in parameter or parameter["description"]
