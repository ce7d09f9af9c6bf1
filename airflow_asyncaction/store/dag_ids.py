# SPDX-License-Identifier: Apache-2.0
"""The Dags that have actions: found by one index probe for each, however many actions there are."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func, select

from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.models import action_table

_dag_id = action_table.c.dag_id


def dag_ids_with_actions(database: Database) -> list[str]:
    """Return the ids of the Dags that have actions, also of those that were deleted, in order."""
    with database.transaction() as connection:
        # MySQL finds distinct values by such probes itself, and lets no recursion have an aggregate. No test
        # runs there: MariaDB 10.11, by hand, explains it as "Using index for group-by".
        query = _DISTINCT if connection.dialect.name == "mysql" else _PROBES
        return [row.dag_id for row in connection.execute(query)]


def _probes() -> Select[Any]:
    """Return the query that goes from each id to the next larger one in the index."""
    found = select(func.min(_dag_id).label("dag_id")).cte("found", recursive=True)
    following = select(func.min(_dag_id)).where(_dag_id > found.c.dag_id).scalar_subquery()
    found = found.union_all(select(following).where(found.c.dag_id.is_not(None)))
    return select(found.c.dag_id).where(found.c.dag_id.is_not(None))


_PROBES = _probes()
_DISTINCT = select(_dag_id).distinct().order_by(_dag_id)
