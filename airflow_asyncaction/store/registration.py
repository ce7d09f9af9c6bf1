# SPDX-License-Identifier: Apache-2.0
"""Registration: a running task instance gets an action, once, without any secret shared before.

The task has written sha256(nonce) into its own task state store, which nobody but it (and users who may edit
the task anyway) can write, and sends the nonce. The commitment is deleted with its use.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
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
from airflow_asyncaction.protocol.actions import Action, State, StopReason
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.masking import Masker
from airflow_asyncaction.protocol.options import options_to_columns
from airflow_asyncaction.protocol.tasks import COMMITMENT_KEY, ActionSpec
from airflow_asyncaction.store import masks, reports, rows, secret
from airflow_asyncaction.store.actions import Actions, supersede
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.store.secret import Secrets
from airflow_asyncaction.store.unclaimed import is_untaken_success


@dataclass(frozen=True)
class Registered:
    """An action with its secrets in clear: for its task alone."""

    action: Action
    secrets: Secrets


@dataclass(frozen=True)
class Claimant:
    """A process that says it is of a task instance.

    :param digest: of its nonce
    """

    ti_id: str
    digest: str

    @classmethod
    def of(cls, ti_id: str, nonce: str) -> Claimant:
        """Return who sends a nonce."""
        return cls(ti_id, hashlib.sha256(nonce.encode()).hexdigest())


@dataclass(frozen=True)
class Wanted:
    """What a process of a task asks for.

    :param resumes: the action that its task was deferred with
    """

    spec: ActionSpec
    resumes: str | None = None


def register(actions: Actions, claimant: Claimant, read: Callable[[], Wanted], now: datetime) -> Registered:
    """Register the action of a task instance's try; earlier tries' jobs are told to stop (410).

    The same nonce again gives the same action: the answer may have been lost. A job that may outlive its
    worker is adopted: by the process that resumes the task, and by the next one if its own was killed. So is
    a success that came too late for its try (:func:`is_untaken_success`).

    :param read: reads what the claimant asks for, once it has proven who it is
    :raises RegistrationRefused: no such running task instance, no proof, or registered already
    """
    try:
        return _register(actions, claimant, read, now)
    except (IntegrityError, RegistrationRefused):
        # The same request, sent twice, may have come in the same moment and used the commitment.
        return _register(actions, claimant, read, now)


def _register(actions: Actions, claimant: Claimant, read: Callable[[], Wanted], now: datetime) -> Registered:
    with actions.transaction() as connection:
        query = select(action_table).where(action_table.c.ti_id == claimant.ti_id)
        existing = connection.execute(query).one_or_none()
        if existing is not None and hmac.compare_digest(existing.registration, claimant.digest):
            return _registered(existing)
        if existing is not None and not existing.adoptable:
            raise RegistrationRefused(
                "This try of the task instance has registered an action before", code="already_registered"
            )
        task = _running_task(connection, claimant.ti_id)
        _use_commitment(connection, task, claimant.digest)
        wanted = read()
        earlier = _earlier_actions(connection, task)
        for row in earlier:
            if not row.registration:
                _check_wanted(row)
            if State(row.state).is_waiting:
                return _take_queued(connection, row.id, task, claimant, wanted.spec, now)
            if row.adoptable and _is_to_adopt(connection, row, task, claimant, wanted):
                return _adopt(connection, row, task, claimant, wanted.spec)
        if existing is not None:
            raise RegistrationRefused(
                "This try of the task instance has another action than the one to resume",
                code="already_registered",
            )
        for row in (row for row in earlier if not row.fenced):
            supersede(connection, row.id, now)
        return _insert(connection, task, claimant, wanted.spec, now)


def _is_to_adopt(
    connection: Connection, row: Row[Any], task: Row[Any], claimant: Claimant, wanted: Wanted
) -> bool:
    """Tell whether a process goes on with an earlier one's action.

    A deferred task that starts anew was cleared, or failed: its job is not wanted any more.
    """
    if wanted.resumes is not None:
        return bool(row.id == wanted.resumes)
    if row.ti_id == claimant.ti_id:
        return True
    action = masks.for_job(row, rows.to_action(row))  # with the arguments as they were asked for
    if not wanted.spec.takes_over or row.deferral is not None or action.verb is not None:
        return False
    return is_untaken_success(connection, action, row, task, wanted.spec) if action.is_done else True


def _adopt(
    connection: Connection, row: Row[Any], task: Row[Any], claimant: Claimant, spec: ActionSpec
) -> Registered:
    changes = {
        "ti_id": claimant.ti_id,
        "attempt": max(task.try_number, 1),
        "registration": claimant.digest,
        "deferral": None,
        "masks": masks.added(row, spec.secrets),
    }
    rows.write(connection, row.id, changes)
    return _registered(_read(connection, row.id))


def _check_wanted(row: Row[Any]) -> None:
    if row.stop_reason == StopReason.REQUESTED.value:
        raise RegistrationRefused("The action was stopped before its job was launched", code="stopped")


def _take_queued(
    connection: Connection,
    action_id: JobId,
    task: Row[Any],
    claimant: Claimant,
    spec: ActionSpec,
    now: datetime,
) -> Registered:
    """Make the action that somebody has asked for that of the task which now carries it out."""
    changes = {
        **_spec_columns(spec),
        "attempt": max(task.try_number, 1),
        "ti_id": claimant.ti_id,
        "registration": claimant.digest,
        "task_key": secret.encrypt(secret.new_secret()),
        "awaited": True,
        "state": State.STARTING.value,
        "created_at": now,
        "updated_at": now,
    }
    rows.write(connection, action_id, changes)
    reports.keep_message(connection, action_id, "registered", now)
    return _registered(_read(connection, action_id))


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
            columns.max_tries,
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


def _earlier_actions(connection: Connection, task: Row[Any]) -> Sequence[Row[Any]]:
    """Return the task's actions, the newest first, nobody else's to change until the transaction ends."""
    columns = action_table.c
    query = select(action_table).where(
        columns.dag_id == task.dag_id,
        columns.run_id == task.run_id,
        columns.task_id == task.task_id,
        columns.map_index == task.map_index,
    )
    return connection.execute(query.order_by(columns.created_at.desc()).with_for_update()).all()


def _insert(
    connection: Connection, task: Row[Any], claimant: Claimant, spec: ActionSpec, now: datetime
) -> Registered:
    action_id = JobId(str(uuid7()))
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
            "registration": claimant.digest,
            "secret": secret.encrypt(secret.new_secret()),
            "task_key": secret.encrypt(secret.new_secret()),
            "awaited": True,
            "state": State.STARTING.value,
            **rows.UNTOUCHED,
            "created_at": now,
            "updated_at": now,
        },
    )
    return _registered(_read(connection, action_id))


def _read(connection: Connection, action_id: JobId) -> Row[Any]:
    row = rows.read(connection, action_id)
    if row is None:
        raise AssertionError("a row can be read in the transaction that wrote it")
    return row


def _registered(row: Row[Any]) -> Registered:
    return Registered(rows.to_action(row), secret.secrets_of(row))


def _spec_columns(spec: ActionSpec) -> dict[str, Any]:
    return {
        "type": spec.type,
        "runner": spec.runner,
        **masks.argument_columns(spec.arguments, Masker(spec.secrets)),
        "masks": masks.encrypted(spec.secrets, spec.arguments),
        "adoptable": spec.adoptable,
        "traceparent": spec.traceparent,
        "service_name": spec.service_name,
        "method": spec.method,
        **options_to_columns(spec),
    }
