# SPDX-License-Identifier: Apache-2.0
"""Teams: which one a Dag belongs to, where ``[core] multi_team`` is on."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from airflow.configuration import conf

from airflow_asyncaction.airflow_internals.server import dags
from airflow_asyncaction.store.actions import Actions


def teams_of(actions: Actions, dag_ids: Collection[str]) -> Mapping[str, str | None]:
    """Return the team of each Dag, ``None`` for those without a team.

    With teams, a Dag that Airflow does not know (it was deleted) is left out: its team is unknown, so nobody
    may be told about it. Without teams, all are returned, and the database is not asked.

    :raises StoreUnavailable: the database does not answer
    """
    if not conf.getboolean("core", "multi_team", fallback=False):
        return dict.fromkeys(dag_ids)
    with actions.transaction() as connection:
        return dags.teams(connection, dag_ids)
