# SPDX-License-Identifier: Apache-2.0
"""Whose a Dag is, where Airflow has teams."""

from __future__ import annotations

import secrets

import pytest
from airflow.sdk import DAG, BaseOperator

from airflow_asyncaction.store.operations import is_nobodys
from tests.integration.databases import Database
from tests.integration.stored_dags import store_dag

pytestmark = pytest.mark.integration


def test_the_actions_of_a_deleted_dag_are_nobodys_where_there_are_teams(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DAG(f"of_a_team_{secrets.token_hex(4)}", schedule=None) as dag:
        dag.relative_fileloc = "team.py"
        BaseOperator(task_id="load")
    store_dag(database.engine, dag)
    assert not is_nobodys("deleted")
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    assert not is_nobodys(dag.dag_id)
    assert is_nobodys("deleted")
