# SPDX-License-Identifier: Apache-2.0
"""Teams: finds the team of each Dag if ``[core] multi_team`` is on."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from airflow.configuration import conf

from airflow_asyncaction.airflow_internals.server import dags
from airflow_asyncaction.store.database import Database


def teams_of(database: Database, dag_ids: Collection[str]) -> Mapping[str, str | None]:
    """Return the team of each Dag, ``None`` for a Dag without a team.

    If ``multi_team`` is on, deleted Dags are omitted: their team is unknown, so nobody may see them. If it is
    off, all Dags are returned without a query.

    :raises StoreUnavailable: the database does not answer
    """
    if not conf.getboolean("core", "multi_team", fallback=False):
        return dict.fromkeys(dag_ids)
    with database.transaction() as connection:
        return dags.teams(connection, dag_ids)
