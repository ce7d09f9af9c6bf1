# SPDX-License-Identifier: Apache-2.0
"""Dialect: makes Airflow validate the Params of operations with :class:`LinearValidator`.

Airflow validates a run's conf with ``jsonschema.validate``: in the API server, for each route that starts a
run, and in the worker before each task. That function chooses the validator class by ``$schema``. In the
Params of operations, ``$schema`` is :data:`DIALECT`, for which this module registers its class. A process
that has not imported this module uses jsonschema's own validator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validates

from airflow_asyncaction.json_schema.engine import compile_schema
from airflow_asyncaction.json_schema.mistakes import find_mistake
from airflow_asyncaction.json_schema.weight import BadSchema

DIALECT = "urn:airflow-asyncaction:json-schema"
"""``$schema`` of Params that are validated in linear time. The dialect is draft 2020-12 with limits."""


def with_dialect(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Param's schema with the dialect that Airflow validates in linear time."""
    return {**schema, "$schema": DIALECT}


class LinearValidator:
    """Validator with the members that ``jsonschema.validate`` uses. It reports only the first mistake.

    :param schema: schema of one Param
    :param format_checker: ignored, since the engine checks formats
    """

    META_SCHEMA: Mapping[str, Any] = {"$id": DIALECT}

    def __init__(self, schema: Mapping[str, Any], *_: Any, format_checker: object = None) -> None:
        self.schema = schema

    @staticmethod
    def ID_OF(schema: Mapping[str, Any]) -> str:  # noqa: N802 - jsonschema's name
        """Return the id of a schema."""
        return str(schema.get("$id", ""))

    @classmethod
    def check_schema(cls, schema: Mapping[str, Any], *_: Any, **__: Any) -> None:
        """Check that a schema is supported.

        :raises SchemaError: it is not; the message says where and why
        """
        try:
            compile_schema(schema)
        except BadSchema as error:
            raise SchemaError(str(error)) from None

    def iter_errors(self, instance: Any) -> Iterator[ValidationError]:
        """Yield the first mistake, if any."""
        mistake = find_mistake(instance, compile_schema(self.schema))
        if mistake is not None:
            where = "" if mistake.path == "$" else f"{mistake.path}: "
            yield ValidationError(where + mistake.message)


validates("airflow-asyncaction")(LinearValidator)  # type: ignore[arg-type]  # has what jsonschema.validate calls
