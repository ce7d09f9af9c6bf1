# SPDX-License-Identifier: Apache-2.0
"""Operations: reads Dags with the tag ``async-operation`` from Airflow's tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from airflow.models.dag import DagModel, DagTag
from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.definitions.notset import is_arg_set
from sqlalchemy import Connection, bindparam, select
from sqlalchemy.orm import Session

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

_dags = DagModel.__table__.c
_serialized = SerializedDagModel.__table__.c
_OPERATIONS = (
    select(_dags.dag_id, _dags.is_paused, _dags.description)
    .join(DagTag.__table__, DagTag.__table__.c.dag_id == _dags.dag_id)
    .where(DagTag.__table__.c.name == TAG, _dags.is_stale.is_(False))
    .order_by(_dags.dag_id)
)
_NEWEST_HASH = (
    select(_serialized.dag_hash)
    .where(_serialized.dag_id == bindparam("dag_id"))
    .order_by(_serialized.created_at.desc())
    .limit(1)
)


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
    """Return the sorted ids of all operations."""
    with database.transaction() as connection:
        return [row.dag_id for row in connection.execute(_OPERATIONS)]


def find_operations(database: Database, ids: Collection[str]) -> list[Operation]:
    """Return operations by id, sorted. Ids of other Dags are ignored."""
    with database.transaction() as connection:
        return list(_operations(connection, ids))


def _operations(connection: Connection, ids: Collection[str]) -> Iterator[Operation]:
    for row in connection.execute(_OPERATIONS.where(_dags.dag_id.in_(ids))).all():
        declared = _declared(connection, row.dag_id)
        yield Operation(
            id=row.dag_id,
            task_id=declared.task_id,
            declaration=declared.declaration,
            is_linear=declared.is_linear,
            description=row.description,
            is_paused=bool(row.is_paused),
        )


def _declared(connection: Connection, dag_id: str) -> _Declared:
    dag_hash = connection.scalar(_NEWEST_HASH, {"dag_id": dag_id})
    known = _CACHE.get(dag_id)
    if known is not None and known[0] == dag_hash:
        return known[1]
    with Session(bind=connection) as session:
        dag = SerializedDagModel.get_dag(dag_id, session=session)
        declared = _Declared("", Declaration(type=dag_id)) if dag is None else _declared_by(dag)
    if len(_CACHE) >= _CACHED:
        _CACHE.clear()
    _CACHE[dag_id] = (dag_hash, declared)
    return declared


def _declared_by(dag: SerializedDAG) -> _Declared:
    task_id, declaration = _declaration(dag)
    schemas = (dag.params.get_param(name).schema for name in dag.params)
    return _Declared(task_id, declaration, all(schema.get("$schema") == DIALECT for schema in schemas))


def _declaration(dag: SerializedDAG) -> tuple[str, Declaration]:
    """Return the task that runs an operation, and its declaration."""
    # A mapped task has one action per map index, so it cannot run an operation.
    tasks = [
        task for task in dag.tasks if not task.is_mapped and task.get_closest_mapped_task_group() is None
    ]
    tasks.sort(key=lambda task: (len(task.get_flat_relative_ids(upstream=True)), task.task_id))
    for task in tasks:
        declaration = Declaration.from_doc(getattr(task, "doc_json", None))
        if declaration is not None:
            if declaration.input is None:
                declaration = replace(declaration, input=_params(dag))
            return task.task_id, declaration
    ours = (task.task_id for task in tasks if str(getattr(task, "_task_module", "")).startswith(_OUR_MODULES))
    task_id = next(ours, "")
    return task_id, Declaration(type=task_id or dag.dag_id, input=_params(dag))


def _params(dag: SerializedDAG) -> Schema:
    """Return the Params of a Dag as one JSON Schema for the conf of a run."""
    properties, required = {}, []
    for name in dag.params:
        param = dag.params.get_param(name)
        properties[name] = {key: value for key, value in param.schema.items() if key != "$schema"}
        if param.description:
            properties[name].setdefault("description", param.description)
        if is_arg_set(param.value):
            properties[name]["default"] = param.value
        else:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}
