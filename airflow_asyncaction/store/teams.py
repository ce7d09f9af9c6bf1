# SPDX-License-Identifier: Apache-2.0
"""Teams: find the team of a Dag if ``[core] multi_team`` is on."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from airflow.configuration import conf
from airflow.models.dag import DagModel
from airflow.models.team import dag_bundle_team_association_table
from sqlalchemy import bindparam, select

from airflow_asyncaction.store.database import Database

_dags = DagModel.__table__.c
_owners = dag_bundle_team_association_table.c
_TEAMS = (
    select(_dags.dag_id, _owners.team_name)
    .outerjoin(dag_bundle_team_association_table, _owners.dag_bundle_name == _dags.bundle_name)
    .where(_dags.dag_id.in_(bindparam("dag_ids", expanding=True)))
)


def teams_of(database: Database, dag_ids: Collection[str]) -> Mapping[str, str | None]:
    """Return the team of each Dag, ``None`` for a Dag without a team.

    If ``multi_team`` is on, deleted Dags are left out: their team is unknown, so nobody may see them. If it
    is off, all Dags are returned without a query.

    :raises StoreUnavailable: the database does not answer
    """
    if not conf.getboolean("core", "multi_team", fallback=False):
        return dict.fromkeys(dag_ids)
    with database.transaction() as connection:
        found = connection.execute(_TEAMS, {"dag_ids": list(dag_ids)}).all()
    return {row.dag_id: row.team_name for row in found}
