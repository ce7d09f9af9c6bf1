# SPDX-License-Identifier: Apache-2.0
"""Makes Airflow validate the Params of operations by this validator, wherever it does so.

Airflow validates a run's conf with ``jsonschema.validate``: in the API server, whatever route starts the run,
and in the worker before each task. That function looks up the validator class by the schema's ``$schema``.
Params of operations have :data:`DIALECT` there, and ``jsonschema.validators.validates`` registers the class
for it. A process that has not imported this module uses jsonschema's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validates

from airflow_asyncaction.json_schema.engine import compiled
from airflow_asyncaction.json_schema.mistakes import find_mistake
from airflow_asyncaction.json_schema.weight import BadSchema

DIALECT = "urn:airflow-asyncaction:json-schema"
"""``$schema`` of Params that are validated in linear time: draft 2020-12 in all else."""


def in_dialect(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Param's schema so that Airflow validates it in linear time."""
    return {**schema, "$schema": DIALECT}


class LinearValidator:
    """A validator as jsonschema calls them. It reports the first mistake only.

    :param schema: of one Param
    :param format_checker: is ignored: formats are checked by the engine
    """

    META_SCHEMA: Mapping[str, Any] = {"$id": DIALECT}

    def __init__(self, schema: Mapping[str, Any], *_: Any, format_checker: object = None) -> None:
        self.schema = schema

    @staticmethod
    def ID_OF(schema: Mapping[str, Any]) -> str:  # noqa: N802 - jsonschema's name
        """Return what a meta schema is registered by."""
        return str(schema.get("$id", ""))

    @classmethod
    def check_schema(cls, schema: Mapping[str, Any], *_: Any, **__: Any) -> None:
        """Make sure that a schema can be used.

        :raises SchemaError: it cannot; says where and why
        """
        try:
            compiled(schema)
        except BadSchema as error:
            raise SchemaError(str(error)) from None

    def iter_errors(self, instance: Any) -> Iterator[ValidationError]:
        """Return the first mistake, if there is one."""
        mistake = find_mistake(instance, compiled(self.schema))
        if mistake is not None:
            where = "" if mistake.path == "$" else f"{mistake.path}: "
            yield ValidationError(where + mistake.message)


validates("airflow-asyncaction")(LinearValidator)  # type: ignore[arg-type]  # all that jsonschema.validate calls
