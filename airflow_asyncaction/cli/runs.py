# SPDX-License-Identifier: Apache-2.0
"""Dag runs: creates them, or marks them as failed, in this process, as Airflow's local commands do."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.exceptions import DagNotFound

from airflow_asyncaction.airflow_internals.server import dag_runs
from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.store import audit
from airflow_asyncaction.store.audit import AuditEvent
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.launching import WantedRun
from airflow_asyncaction.store.listing import ActionRecord

METHOD = "CLI"
"""Recorded in the audit log in place of an HTTP method."""


def create_run(database: Database, run: WantedRun, *, user: str) -> None:
    """Create a Dag run unless it exists, and record it in Airflow's audit log.

    :param user: name of the user who launches it
    :raises UserRefused: Airflow refuses; the message contains its reason
    """
    try:
        is_new = dag_runs.create_if_missing(
            dag_id=run.dag_id, run_id=run.run_id, conf=run.conf, run_after=run.run_after, user=user
        )
    except (DagNotFound, ValueError) as error:  # invalid Params raise ValueError, too
        raise UserRefused(f"Airflow refused to create the Dag run: {error}", code="run_refused") from error
    if not is_new:
        return
    audited_run = AuditEvent(
        event=audit.TRIGGER,
        owner=user,
        dag_id=run.dag_id,
        run_id=run.run_id,
        extra={"method": METHOD},
    )
    with database.transaction() as connection:
        audit.record(connection, audited_run, datetime.now(UTC))


def fail_run(action: ActionRecord) -> None:
    """Mark the Dag run of an action as failed, if it exists."""
    dag_runs.mark_failed(action.dag_id, action.row.run_id)


def fail_task(action: ActionRecord) -> None:
    """Mark the task instance of an action as failed, if it exists, so that it is not retried."""
    row = action.row
    dag_runs.mark_task_failed(
        row.dag_id, row.run_id, row.task_id, map_index=row.map_index, iteration=row.iteration
    )
