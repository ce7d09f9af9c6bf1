# SPDX-License-Identifier: Apache-2.0
"""``airflow tasks test``: deletes the actions of its temporary Dag run."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, select

from airflow_asyncaction.airflow_internals.server import dag_runs, database
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store.models import action_table, file_table, report_table

_columns = action_table.c


def delete_without_run(action_ids: Collection[JobId]) -> None:
    """Delete the actions whose Dag run no longer exists, with their reports and files."""
    without_run = (
        select(_columns.id)
        .outerjoin(dag_runs.table, dag_runs.matches(_columns))
        .where(_columns.id.in_(action_ids), dag_runs.row_id.is_(None))
    )
    with database.engine().begin() as connection:
        deleted = connection.scalars(without_run).all()
        for column in (report_table.c.action_id, file_table.c.action_id, _columns.id):
            connection.execute(delete(column.table).where(column.in_(deleted)))
