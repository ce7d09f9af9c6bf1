# SPDX-License-Identifier: Apache-2.0
"""Registration: a running task instance gets an action, once, without any secret shared before.

The task has written sha256(nonce) into its own task state store, which nobody but it (and users who may edit
the task anyway) can write, and sends the nonce. The commitment is deleted with its use.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from airflow.models.taskinstance import TaskInstance
from airflow.state import TaskScope, get_state_backend
from airflow.utils.state import TaskInstanceState
from sqlalchemy import Connection, Row, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from uuid6 import uuid7

from airflow_asyncaction.exceptions import RegistrationRefused
from airflow_asyncaction.protocol.actions import Action, in_seconds
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.tasks import COMMITMENT_KEY, ActionSpec
from airflow_asyncaction.store import rows, secret
from airflow_asyncaction.store.actions import Actions, supersede
from airflow_asyncaction.store.models import action_table


@dataclass(frozen=True)
class Registered:
    """A new action, and its job's secret in clear: for its task alone."""

    action: Action
    secret: str


def register(actions: Actions, ti_id: str, nonce: str, spec: ActionSpec, now: datetime) -> Registered:
    """Register the action of a task instance's try; earlier tries' jobs are told to stop (410).

    The same nonce again gives the same action: the answer may have been lost.

    :raises RegistrationRefused: no such running task instance, no proof, or registered already
    """
    digest = hashlib.sha256(nonce.encode()).hexdigest()
    try:
        return _register(actions, ti_id, digest, spec, now)
    except (IntegrityError, RegistrationRefused):
        # The same request, sent twice, may have come in the same moment and used the commitment.
        return _register(actions, ti_id, digest, spec, now)


def _register(actions: Actions, ti_id: str, digest: str, spec: ActionSpec, now: datetime) -> Registered:
    with actions.transaction() as connection:
        existing = connection.execute(select(action_table).where(action_table.c.ti_id == ti_id)).one_or_none()
        if existing is not None:
            return _registered_before(existing, digest)
        task = _running_task(connection, ti_id)
        _use_commitment(connection, task, digest)
        for action_id in _earlier_actions(connection, task):
            supersede(connection, action_id, now)
        return _insert(connection, task, digest, spec, now)


def _registered_before(row: Row[Any], digest: str) -> Registered:
    if not hmac.compare_digest(row.registration, digest):
        raise RegistrationRefused(
            "This try of the task instance has registered an action before", code="already_registered"
        )
    return Registered(rows.to_action(row), secret.decrypt(row.secret))


def _running_task(connection: Connection, ti_id: str) -> Row[Any]:
    columns = TaskInstance.__table__.c
    task = connection.execute(
        select(
            columns.id,
            columns.dag_id,
            columns.run_id,
            columns.task_id,
            columns.map_index,
            columns.try_number,
            columns.state,
        ).where(columns.id == UUID(ti_id))
    ).one_or_none()
    if task is None or task.state != TaskInstanceState.RUNNING:
        raise RegistrationRefused("There is no such running task instance", code="no_such_task_instance")
    return cast("Row[Any]", task)


def _use_commitment(connection: Connection, task: Row[Any], digest: str) -> None:
    scope = TaskScope(dag_id=task.dag_id, run_id=task.run_id, task_id=task.task_id, map_index=task.map_index)
    backend = get_state_backend()
    with Session(bind=connection) as session:  # takes part in the connection's transaction
        stored = backend.get(scope, COMMITMENT_KEY, session=session)
        committed = _commitment(stored)
        if committed is None or not hmac.compare_digest(committed.encode(), digest.encode()):
            raise RegistrationRefused(
                "The task instance has not committed to this nonce in its task state store"
                " (a custom [workers] state_store_backend must not apply to it)",
                code="not_proven",
            )
        backend.delete(scope, COMMITMENT_KEY, session=session)
        session.flush()


def _commitment(stored: str | None) -> str | None:
    if stored is None:
        return None
    try:
        value = json.loads(stored)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _earlier_actions(connection: Connection, task: Row[Any]) -> list[JobId]:
    columns = action_table.c
    query = select(columns.id).where(
        columns.dag_id == task.dag_id,
        columns.run_id == task.run_id,
        columns.task_id == task.task_id,
        columns.map_index == task.map_index,
        columns.fenced.is_(False),
    )
    return [JobId(action_id) for action_id in connection.scalars(query)]


def _insert(
    connection: Connection, task: Row[Any], digest: str, spec: ActionSpec, now: datetime
) -> Registered:
    action_id = JobId(str(uuid7()))
    new_secret = secret.new_secret()
    connection.execute(
        insert(action_table),
        {
            **_spec_columns(spec),
            "id": action_id,
            "attempt": max(task.try_number, 1),
            "ti_id": str(task.id),
            "dag_id": task.dag_id,
            "run_id": task.run_id,
            "task_id": task.task_id,
            "map_index": task.map_index,
            "registration": digest,
            "secret": secret.encrypt(new_secret),
            "state": "STARTING",
            "fenced": False,
            "log_lines": 0,
            "log_lines_dropped": 0,
            "report_count": 0,
            "refused_count": 0,
            "created_at": now,
            "updated_at": now,
        },
    )
    row = rows.read(connection, action_id)
    if row is None:
        raise AssertionError("an inserted row can be read in its own transaction")
    return Registered(rows.to_action(row), new_secret)


def _spec_columns(spec: ActionSpec) -> dict[str, Any]:
    return {
        "type": spec.type,
        "runner": spec.runner,
        "arguments": spec.arguments,
        "completion": spec.completion.value,
        "require_report": spec.require_report,
        "start_timeout_seconds": in_seconds(spec.start_timeout),
        "heartbeat_timeout_seconds": in_seconds(spec.heartbeat_timeout),
        "accept_v1": spec.accept_v1,
        "log_limit": spec.log_limit,
    }
