# SPDX-License-Identifier: Apache-2.0
"""Dag runs: created and failed in this process, like Airflow's local commands do, with audit log entries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar, cast

from airflow.api.common.mark_tasks import set_dag_run_state_to_failed
from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import DagNotFound, DagRunAlreadyExists
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.utils.cli import action_cli
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType

from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.store import audit
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.audit import AuditEvent
from airflow_asyncaction.store.launching import WantedRun
from airflow_asyncaction.store.listing import ActionRecord

METHOD = "CLI"
"""Recorded in the audit log in place of an HTTP method."""

P = ParamSpec("P")
T = TypeVar("T")


def audited(command: Callable[P, T]) -> Callable[P, T]:
    """Record a command in Airflow's audit log."""
    return cast("Callable[P, T]", action_cli(check_db=False)(command))


def create_run(actions: Actions, run: WantedRun, *, user: str) -> None:
    """Create a Dag run unless it exists, and record it in Airflow's audit log.

    :param user: name of the user who launches it
    :raises UserRefused: Airflow refuses; the message has its reason
    """
    try:
        with suppress(DagRunAlreadyExists):
            trigger_dag(
                dag_id=run.dag_id,
                triggered_by=DagRunTriggeredByType.CLI,
                triggering_user_name=user,
                run_id=run.run_id,
                conf=run.conf,
                run_after=run.run_after,
            )
            audited_run = AuditEvent(
                event=audit.TRIGGER,
                owner=user,
                dag_id=run.dag_id,
                run_id=run.run_id,
                extra={"method": METHOD},
            )
            with actions.transaction() as connection:
                audit.record(connection, audited_run, datetime.now(UTC))
    except (DagNotFound, ValueError) as error:  # invalid Params raise ValueError, too
        raise UserRefused(f"Airflow refused to create the Dag run: {error}", code="run_refused") from error


def fail_run(action: ActionRecord) -> None:
    """Mark the Dag run of an action as failed, if it exists."""

    def fail(dag: SerializedDAG, session: Any) -> None:
        set_dag_run_state_to_failed(dag=dag, run_id=action.row.run_id, commit=True, session=session)

    _change(action, fail)


def fail_task(action: ActionRecord) -> None:
    """Mark the task instance of an action as failed, if it exists, so that it is not retried."""
    row = action.row

    def fail(dag: SerializedDAG, session: Any) -> None:
        if dag.has_task(row.task_id):
            dag.set_task_instance_state(
                task_id=row.task_id,
                map_indexes=[row.map_index],
                run_id=row.run_id,
                state=TaskInstanceState.FAILED,
                session=session,
            )

    _change(action, fail)


def _change(action: ActionRecord, change: Callable[[SerializedDAG, Any], None]) -> None:
    """Change the Dag run of an action, if it exists, using the version of the Dag in that run."""
    with create_session() as session:
        for run in DagRun.find(dag_id=action.dag_id, run_id=action.row.run_id, session=session):
            dag = DBDagBag().get_dag_for_run(run, session=session)
            if dag is not None:
                change(dag, session)
