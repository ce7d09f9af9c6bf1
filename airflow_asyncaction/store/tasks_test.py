# SPDX-License-Identifier: Apache-2.0
"""Actions of ``airflow tasks test``: deleted with the temporary Dag run of the command."""

from __future__ import annotations

from collections.abc import Collection

from airflow import settings
from airflow.models.dagrun import DagRun
from sqlalchemy import and_, delete, select

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store.models import action_table, file_table, report_table

_columns = action_table.c
_runs = DagRun.__table__.c
_HAS_RUN = and_(_runs.dag_id == _columns.dag_id, _runs.run_id == _columns.run_id)


def delete_without_run(action_ids: Collection[JobId]) -> None:
    """Delete the actions whose Dag run no longer exists, with their reports and files."""
    without_run = (
        select(_columns.id)
        .outerjoin(DagRun.__table__, _HAS_RUN)
        .where(_columns.id.in_(action_ids), _runs.id.is_(None))
    )
    with settings.get_engine().begin() as connection:
        deleted = connection.scalars(without_run).all()
        for column in (report_table.c.action_id, file_table.c.action_id, _columns.id):
            connection.execute(delete(column.table).where(column.in_(deleted)))
