# SPDX-License-Identifier: Apache-2.0
"""Dags: reads tags, newest versions, tasks and Params from the metadata database, without parsing files.

Uses: ``airflow.models.dag`` (``DagModel``, ``DagTag``), ``airflow.models.serialized_dag.SerializedDagModel``,
``airflow.serialization.definitions`` (``SerializedDAG``, ``is_arg_set``, task groups),
``airflow.models.dagbag.CachedDBDagBag``, ``airflow.models.team``.

Checked with Airflow 3.3.2 and 3.4.0b2.

Reading a serialized Dag takes milliseconds, so callers cache the result by :func:`newest_hash`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from airflow.models.dag import DagModel, DagTag
from airflow.models.dagbag import CachedDBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.team import dag_bundle_team_association_table
from airflow.serialization.definitions import taskgroup
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.definitions.notset import is_arg_set
from sqlalchemy import Connection, Select, Table, bindparam, select
from sqlalchemy.orm import Session

_REPEATED_GROUPS: tuple[type, ...] = (
    taskgroup.SerializedMappedTaskGroup,
    getattr(taskgroup, "SerializedLoopTaskGroup", taskgroup.SerializedMappedTaskGroup),  # Airflow 3.4
)
_dags = cast("Table", DagModel.__table__).c
_tags = cast("Table", DagTag.__table__)
_serialized = cast("Table", SerializedDagModel.__table__).c
_owners = dag_bundle_team_association_table.c
_NEWEST_HASH = (
    select(_serialized.dag_hash)
    .where(_serialized.dag_id == bindparam("dag_id"))
    .order_by(_serialized.created_at.desc())
    .limit(1)
)
_TEAMS = (
    select(_dags.dag_id, _owners.team_name)
    .outerjoin(dag_bundle_team_association_table, _owners.dag_bundle_name == _dags.bundle_name)
    .where(_dags.dag_id.in_(bindparam("dag_ids", expanding=True)))
)
_dag_bag = CachedDBDagBag(
    load_op_links=False, cache_size=64, cache_ttl=3600, stats_prefix="asyncaction.dag_bag"
)  # the defaults of the API server's own Dag bag


@dataclass(frozen=True)
class DagTask:
    """A task of a serialized Dag.

    :param doc: ``doc_json`` of the task
    :param module: module of the operator
    """

    task_id: str
    doc: Any
    module: str


@dataclass(frozen=True)
class DagParam:
    """A Param of a serialized Dag.

    :param default: default value; meaningful only if ``has_default``
    """

    schema: Mapping[str, Any]
    description: str | None
    has_default: bool
    default: Any


@dataclass(frozen=True)
class DagVersion:
    """The newest version of a Dag.

    :param unmapped_tasks: tasks that run once in a Dag run: neither mapped, nor in a mapped task group or a
        loop. Those with fewer upstream tasks come first
    :param params: Params by name
    """

    dag_id: str
    unmapped_tasks: tuple[DagTask, ...]
    params: Mapping[str, DagParam]


def select_tagged(tag: str, dag_ids: Collection[str] | None = None) -> Select[tuple[str, bool, str | None]]:
    """Return the query for the Dags with a tag: dag_id, is_paused, description; ordered by dag_id.

    :param dag_ids: restrict to these Dags; ``None`` for all
    """
    query = (
        select(_dags.dag_id, _dags.is_paused, _dags.description)
        .join(_tags, _tags.c.dag_id == _dags.dag_id)
        .where(_tags.c.name == tag, _dags.is_stale.is_(False))
        .order_by(_dags.dag_id)
    )
    return query if dag_ids is None else query.where(_dags.dag_id.in_(dag_ids))


def newest_hash(connection: Connection, dag_id: str) -> str | None:
    """Return the hash of a Dag's newest version; ``None`` if the Dag does not exist."""
    return connection.scalar(_NEWEST_HASH, {"dag_id": dag_id})


def newest_version(connection: Connection, dag_id: str) -> DagVersion | None:
    """Return the newest version of a Dag; ``None`` if the Dag does not exist."""
    with Session(bind=connection) as session:  # takes part in the connection's transaction
        dag = SerializedDagModel.get_dag(dag_id, session=session)
    if dag is None:
        return None
    return DagVersion(
        dag.dag_id, tuple(_unmapped_tasks(dag)), {name: _param(dag, name) for name in dag.params}
    )


def upstream_tasks(connection: Connection, dag_id: str, run_id: str, task_id: str) -> set[str]:
    """Return the ids of all tasks upstream of a task, in the Dag version of a run."""
    with Session(bind=connection) as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        dag = None if run is None else _dag_bag.get_dag_for_run(run, session)
        if dag is None or not dag.has_task(task_id):
            return set()
        return set(dag.get_task(task_id).get_flat_relative_ids(upstream=True))


def teams(connection: Connection, dag_ids: Collection[str]) -> Mapping[str, str | None]:
    """Return the team of each existing Dag; ``None`` for a Dag without a team."""
    found = connection.execute(_TEAMS, {"dag_ids": list(dag_ids)}).all()
    return {row.dag_id: row.team_name for row in found}


def _unmapped_tasks(dag: SerializedDAG) -> Iterator[DagTask]:
    tasks = [task for task in dag.tasks if not task.is_mapped and not _is_in_repeated_group(task)]
    tasks.sort(key=lambda task: (len(task.get_flat_relative_ids(upstream=True)), task.task_id))
    for task in tasks:
        doc, module = getattr(task, "doc_json", None), getattr(task, "_task_module", "")
        yield DagTask(task.task_id, doc, str(module))


def _is_in_repeated_group(task: Any) -> bool:
    """Return whether a task is in a mapped task group, or in a loop (Airflow 3.4)."""
    group = task.task_group
    while group is not None:
        if isinstance(group, _REPEATED_GROUPS):
            return True
        group = group.parent_group
    return False


def _param(dag: SerializedDAG, name: str) -> DagParam:
    param = dag.params.get_param(name)
    return DagParam(param.schema, param.description, bool(is_arg_set(param.value)), param.value)
