# SPDX-License-Identifier: Apache-2.0
"""Operations in deployments with Airflow's teams."""

from __future__ import annotations

import secrets

import pytest
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.team import Team
from airflow.sdk import DAG, BaseOperator
from sqlalchemy import update
from sqlalchemy.orm import Session

from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.teams import teams_of
from tests.integration.databases import Database
from tests.integration.stored_dags import store_dag

pytestmark = pytest.mark.integration


def test_a_deleted_dag_is_of_no_known_team(
    database: Database, actions: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DAG(f"of_a_team_{secrets.token_hex(4)}", schedule=None) as dag:
        dag.relative_fileloc = "team.py"
        BaseOperator(task_id="load")
    store_dag(database.engine, dag)
    assert teams_of(actions.database, [dag.dag_id, "deleted"]) == {dag.dag_id: None, "deleted": None}
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    assert teams_of(actions.database, [dag.dag_id, "deleted"]) == {dag.dag_id: None}
    with Session(database.engine) as session:
        bundle = DagBundleModel(name=f"bundle_of_{dag.dag_id}")
        bundle.teams = [Team(name="loaders")]
        session.add(bundle)
        session.flush()
        mine = DagModel.__table__.c.dag_id == dag.dag_id
        session.execute(update(DagModel.__table__).where(mine).values(bundle_name=bundle.name))
        session.commit()
    assert teams_of(actions.database, [dag.dag_id, "deleted"]) == {dag.dag_id: "loaders"}
    assert teams_of(actions.database, []) == {}
