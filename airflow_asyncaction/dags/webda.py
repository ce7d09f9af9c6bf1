# SPDX-License-Identifier: Apache-2.0
"""``load_operations``: creates Dags from a webda operations file.

The file has the fields ``application``, ``operations`` and ``schemas``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from airflow_asyncaction.dags.operation_dag import async_operation
from airflow_asyncaction.protocol.operations import Schema
from airflow_asyncaction.runners.webda import RUN_OPERATION

_EMPTY: Schema = {"type": "object", "properties": {}}
_POINTER = "#/schemas/"


def load_operations(
    path: str | os.PathLike[str], *, orchestrator: str | None = None, **options: Any
) -> dict[str, DAG]:
    """Create a Dag for each operation of a webda operations file. Runners are configured by type.

    :param path: the JSON file. For one beside the Dag file, use ``Path(__file__).parent / "..."``.
    :param orchestrator: the name of the AsyncJobService in the webda application whose jobs run the
        operations. Their runner needs ``{{ webda.node_options }}`` (docs/webda.md). By default, the jobs may
        be any programs.
    :param options: arguments of :func:`async_operation` for all operations.
    :returns: the Dags by operation id. Airflow finds them even if they are not assigned to a variable.
    :raises ValueError: the file is invalid
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    operations, schemas = _object(content, "operations", file), _object(content, "schemas", file)
    application = content.get("application")
    label = application.get("name") if isinstance(application, Mapping) else application
    tags = [str(label)[:100]] if label else []
    return {
        name: _operation(name, operation, schemas, tags, file, _options(name, orchestrator, options))
        for name, operation in operations.items()
    }


def _options(name: str, orchestrator: str | None, options: Mapping[str, Any]) -> Mapping[str, Any]:
    if orchestrator is None:
        return options
    call = {
        "service_name": orchestrator,
        "method": RUN_OPERATION,
        "arguments": [name],
        "orchestrator": orchestrator,
    }
    return {**options, "action": {**(options.get("action") or {}), **call}}


def _operation(
    name: str,
    operation: Any,
    schemas: Mapping[str, Any],
    tags: list[str],
    file: Path,
    options: Mapping[str, Any],
) -> DAG:
    if not isinstance(operation, Mapping):
        raise ValueError(f"{file}: operations.{name} is not an object")
    schema = _schema(operation, "input", name, schemas, file) or _EMPTY
    dag: DAG = async_operation(
        input=schema,
        id=operation.get("id", name),
        output=_schema(operation, "output", name, schemas, file),
        permission=operation.get("permission"),
        **{**options, "tags": [*tags, *options.get("tags", ())]},
    )
    return dag


def _schema(
    operation: Mapping[str, Any], field: str, name: str, schemas: Mapping[str, Any], file: Path
) -> Schema | None:
    """Return the schema that an operation names or contains, with the definitions that it refers to."""
    named = operation.get(field)
    if named is None:
        return None
    if isinstance(named, str):
        if named.removeprefix(_POINTER) not in schemas:
            raise ValueError(f"{file}: operations.{name}.{field} is {named!r}, which is not in schemas")
        named = schemas[named.removeprefix(_POINTER)]
    if not isinstance(named, Mapping):
        raise ValueError(f"{file}: operations.{name}.{field} must be a schema or the name of one")
    return _bundle(named, schemas)


def _bundle(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Schema:
    """Return a schema with all definitions that it refers to, so that it is valid outside the file."""
    needed: dict[str, Any] = {}
    whole: Schema = _rewrite(schema, schemas, needed, root="#")
    return {**whole, "$defs": {**whole.get("$defs", {}), **needed}} if needed else whole


def _rewrite(part: Any, schemas: Mapping[str, Any], needed: dict[str, Any], *, root: str) -> Any:
    """Return a part of a schema with its references rewritten, and add their targets to ``needed``.

    :param root: the reference to the schema that contains the part, after bundling
    """
    if isinstance(part, list):
        return [_rewrite(each, schemas, needed, root=root) for each in part]
    if not isinstance(part, Mapping):
        return part
    reference = part.get("$ref")
    rest = {key: _rewrite(value, schemas, needed, root=root) for key, value in part.items() if key != "$ref"}
    if not isinstance(reference, str):
        return rest if reference is None else {**rest, "$ref": reference}
    name = reference.removeprefix(_POINTER)
    if name in schemas:
        if name not in needed:
            needed[name] = {}  # it may refer to itself
            needed[name] = _rewrite(schemas[name], schemas, needed, root=f"#/$defs/{_escaped(name)}")
        return {**rest, "$ref": f"#/$defs/{_escaped(name)}"}
    return {**rest, "$ref": root + reference.removeprefix("#") if reference.startswith("#") else reference}


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _object(content: Any, field: str, file: Path) -> Mapping[str, Any]:
    found = content.get(field, {}) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping):
        raise ValueError(f"{file}: {field} must be an object")
    return found
