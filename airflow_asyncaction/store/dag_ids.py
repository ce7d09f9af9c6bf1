# SPDX-License-Identifier: Apache-2.0
"""Dag ids: finds the Dags that have actions, with one index probe per Dag."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func, select

from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.models import action_table

_dag_id = action_table.c.dag_id


def dag_ids_with_actions(database: Database) -> list[str]:
    """Return the sorted ids of the Dags that have actions, deleted Dags included."""
    with database.transaction() as connection:
        # MySQL plans SELECT DISTINCT as index probes itself, and forbids aggregates in recursive queries. No
        # test runs on MySQL; MariaDB 10.11 explains the query as "Using index for group-by".
        query = _DISTINCT if connection.dialect.name == "mysql" else _PROBES
        return [row.dag_id for row in connection.execute(query)]


def _probes() -> Select[Any]:
    """Return the recursive query that finds each next larger id in the index."""
    found = select(func.min(_dag_id).label("dag_id")).cte("found", recursive=True)
    following = select(func.min(_dag_id)).where(_dag_id > found.c.dag_id).scalar_subquery()
    found = found.union_all(select(following).where(found.c.dag_id.is_not(None)))
    return select(found.c.dag_id).where(found.c.dag_id.is_not(None))


_PROBES = _probes()
_DISTINCT = select(_dag_id).distinct().order_by(_dag_id)
