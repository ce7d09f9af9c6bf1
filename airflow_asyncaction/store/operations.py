# SPDX-License-Identifier: Apache-2.0
"""Operations: finds the Dags with the tag ``async-operation`` in Airflow's tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection

from airflow_asyncaction.airflow_internals.server import dags
from airflow_asyncaction.airflow_internals.server.dags import DagVersion
from airflow_asyncaction.json_schema.dialect import DIALECT
from airflow_asyncaction.protocol.operations import TAG, Declaration, Schema
from airflow_asyncaction.store.database import Database

_OUR_MODULES = "airflow_asyncaction."
_CACHED = 512


class _Declared(NamedTuple):
    """Declaration of the latest version of a Dag."""

    task_id: str
    declaration: Declaration
    is_linear: bool = True


# Hash and declaration of the latest version, by Dag. Parsing a serialized Dag takes milliseconds.
_CACHE: dict[str, tuple[str | None, _Declared]] = {}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation that users can launch.

    :param id: operation id, equal to the Dag id
    :param task_id: task that runs the action; ``""`` if no task of the Dag is known to register actions
    :param is_linear: whether Airflow validates the Params of the Dag in linear time
    """

    id: str
    task_id: str
    declaration: Declaration
    description: str | None
    is_paused: bool
    is_linear: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return its JSON fields for users."""
        declaration = self.declaration
        return {
            "id": self.id,
            "type": declaration.type,
            "description": self.description,
            "input": declaration.input,
            "output": declaration.output,
            "permission": declaration.permission,
            "isPaused": self.is_paused,
        }


def operation_ids(database: Database) -> list[str]:
    """Return the ids of all operations, in order."""
    with database.transaction() as connection:
        return [row.dag_id for row in connection.execute(dags.select_tagged(TAG))]


def find_operations(database: Database, ids: Collection[str]) -> list[Operation]:
    """Return operations by id, sorted. Ids of other Dags are ignored."""
    with database.transaction() as connection:
        return list(_operations(connection, ids))


def _operations(connection: Connection, ids: Collection[str]) -> Iterator[Operation]:
    for row in connection.execute(dags.select_tagged(TAG, ids)).all():
        declared = _find_declared(connection, row.dag_id)
        yield Operation(
            id=row.dag_id,
            task_id=declared.task_id,
            declaration=declared.declaration,
            is_linear=declared.is_linear,
            description=row.description,
            is_paused=bool(row.is_paused),
        )


def _find_declared(connection: Connection, dag_id: str) -> _Declared:
    dag_hash = dags.newest_hash(connection, dag_id)
    known = _CACHE.get(dag_id)
    if known is not None and known[0] == dag_hash:
        return known[1]
    dag = dags.newest_version(connection, dag_id)
    declared = _Declared("", Declaration(type=dag_id)) if dag is None else _parse_declared(dag)
    if len(_CACHE) >= _CACHED:
        _CACHE.clear()
    _CACHE[dag_id] = (dag_hash, declared)
    return declared


def _parse_declared(dag: DagVersion) -> _Declared:
    task_id, declaration = _declaration(dag)
    is_linear = all(param.schema.get("$schema") == DIALECT for param in dag.params.values())
    return _Declared(task_id, declaration, is_linear)


def _declaration(dag: DagVersion) -> tuple[str, Declaration]:
    """Return the task that runs an operation, and its declaration."""
    # Mapped tasks cannot run an operation: they have one action per map index.
    for task in dag.unmapped_tasks:
        found = Declaration.from_doc(task.doc)
        if found is not None:
            return task.task_id, found if found.input is not None else replace(found, input=_params(dag))
    ours = (task.task_id for task in dag.unmapped_tasks if task.module.startswith(_OUR_MODULES))
    task_id = next(ours, "")
    return task_id, Declaration(type=task_id or dag.dag_id, input=_params(dag))


def _params(dag: DagVersion) -> Schema:
    """Return the schema of a Dag run's conf, combined from the schemas of the Dag's Params."""
    properties, required = {}, []
    for name, param in dag.params.items():
        properties[name] = {key: value for key, value in param.schema.items() if key != "$schema"}
        if param.description:
            properties[name].setdefault("description", param.description)
        if param.has_default:
            properties[name]["default"] = param.default
        else:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}
