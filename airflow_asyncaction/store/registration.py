# SPDX-License-Identifier: Apache-2.0
"""Registration: creates one action for a running task instance, without a shared secret.

The task writes sha256(nonce) to its own task state store, which only the task and users who may edit the task
can write, and sends the nonce. The server deletes this commitment as soon as it has been used.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select
from sqlalchemy.exc import IntegrityError
from uuid6 import uuid7

from airflow_asyncaction.airflow_internals.server import task_instances, task_state
from airflow_asyncaction.airflow_internals.server.task_instances import TaskInstanceState
from airflow_asyncaction.exceptions import RegistrationRefused
from airflow_asyncaction.protocol.actions import Action, State, StopReason
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.masking import Masker
from airflow_asyncaction.protocol.options import options_to_columns
from airflow_asyncaction.protocol.tasks import COMMITMENT_KEY, ActionSpec
from airflow_asyncaction.store import masks, reports, rows, secret
from airflow_asyncaction.store.actions import supersede
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.store.secret import Secrets
from airflow_asyncaction.store.unclaimed import is_unclaimed_success


@dataclass(frozen=True)
class Registered:
    """A registered action with its decrypted secrets, which only its task may receive."""

    action: Action
    secrets: Secrets


@dataclass(frozen=True)
class Claimant:
    """A process that claims to run a task instance.

    :param digest: hex sha256 of its nonce
    """

    ti_id: str
    digest: str

    @classmethod
    def of(cls, ti_id: str, nonce: str) -> Claimant:
        """Return the claimant that sends a nonce."""
        return cls(ti_id, hashlib.sha256(nonce.encode()).hexdigest())


@dataclass(frozen=True)
class RegistrationRequest:
    """A registration request.

    :param resumes: id of the action with which the task was deferred
    """

    spec: ActionSpec
    resumes: str | None = None


def register(
    database: Database, claimant: Claimant, read: Callable[[], RegistrationRequest], now: datetime
) -> Registered:
    """Register the action of a task instance's try. Jobs of earlier tries are asked to stop (410).

    A resent nonce returns the same action, since the response may have been lost. A job that may outlive its
    worker is adopted by the process that resumes the task, and by the next try if its process was killed. The
    next try also adopts a success that came too late for its own try (:func:`is_unclaimed_success`).

    :param read: parses the request after the claimant has proven its identity
    :raises RegistrationRefused: the task instance is not running, the proof is missing, or the try has
        already registered an action
    """
    try:
        return _register(database, claimant, read, now)
    except (IntegrityError, RegistrationRefused):
        # A concurrent duplicate of this request may have used the commitment.
        return _register(database, claimant, read, now)


def _register(
    database: Database, claimant: Claimant, read: Callable[[], RegistrationRequest], now: datetime
) -> Registered:
    with database.transaction() as connection:
        query = select(action_table).where(action_table.c.ti_id == claimant.ti_id)
        existing = connection.execute(query).one_or_none()
        if existing is not None and hmac.compare_digest(existing.registration_digest, claimant.digest):
            return _registered(existing)
        if existing is not None and not existing.adoptable:
            raise RegistrationRefused(
                "This try of the task instance has already registered an action.", code="already_registered"
            )
        task = _running_task(connection, claimant.ti_id)
        _use_commitment(connection, task, claimant.digest)
        wanted = read()
        earlier = _earlier_actions(connection, task)
        for row in earlier:
            if not row.registration_digest:
                _check_not_stopped(row)
            if State(row.state).is_waiting:
                return _assign_queued(connection, row.id, task, claimant, wanted.spec, now)
            if row.adoptable and _should_adopt(connection, row, task, claimant, wanted):
                return _adopt(connection, row, task, claimant, wanted.spec)
        if existing is not None:
            raise RegistrationRefused(
                "This try of the task instance has an action other than the one to resume.",
                code="already_registered",
            )
        for row in (row for row in earlier if not row.fenced):
            supersede(connection, row.id, now)
        return _insert(connection, task, claimant, wanted.spec, now)


def _should_adopt(
    connection: Connection, row: Row[Any], task: Row[Any], claimant: Claimant, wanted: RegistrationRequest
) -> bool:
    """Return whether a process adopts the action of an earlier one.

    A deferred task that starts over was cleared or has failed, so its job must not continue.
    """
    if wanted.resumes is not None:
        return bool(row.id == wanted.resumes)
    if row.ti_id == claimant.ti_id:
        return True
    action = masks.for_job(row, rows.to_action(row))  # with unmasked arguments
    if not wanted.spec.takes_over or row.deferral is not None or action.verb is not None:
        return False
    return is_unclaimed_success(connection, action, row, task, wanted.spec) if action.is_done else True


def _adopt(
    connection: Connection, row: Row[Any], task: Row[Any], claimant: Claimant, spec: ActionSpec
) -> Registered:
    changes = {
        "ti_id": claimant.ti_id,
        "attempt": max(task.try_number, 1),
        "registration_digest": claimant.digest,
        "deferral": None,
        "masks": masks.added(row, spec.secrets),
    }
    rows.write(connection, row.id, changes)
    return _registered(_read(connection, row.id))


def _check_not_stopped(row: Row[Any]) -> None:
    if row.stop_reason == StopReason.REQUESTED.value:
        raise RegistrationRefused("The action was stopped before its job was launched.", code="stopped")


def _assign_queued(
    connection: Connection,
    action_id: JobId,
    task: Row[Any],
    claimant: Claimant,
    spec: ActionSpec,
    now: datetime,
) -> Registered:
    """Assign a queued action to the task that runs it."""
    changes = {
        **_spec_columns(spec),
        "attempt": max(task.try_number, 1),
        "ti_id": claimant.ti_id,
        "registration_digest": claimant.digest,
        "task_key": secret.encrypt(secret.new_secret()),
        "awaited": True,
        "state": State.STARTING.value,
        "created_at": now,
        "updated_at": now,
    }
    rows.write(connection, action_id, changes)
    reports.add_message(connection, action_id, "registered", now)
    return _registered(_read(connection, action_id))


def _running_task(connection: Connection, ti_id: str) -> Row[Any]:
    task = task_instances.find(connection, ti_id)
    if task is None or task.state != TaskInstanceState.RUNNING:
        raise RegistrationRefused(
            "The task instance does not exist or is not running.", code="no_such_task_instance"
        )
    return task


def _use_commitment(connection: Connection, task: Row[Any], digest: str) -> None:
    committed = _commitment(task_state.read_value(connection, task, COMMITMENT_KEY))
    if committed is None or not hmac.compare_digest(committed.encode(), digest.encode()):
        raise RegistrationRefused(
            "The task instance has not committed to this nonce in its task state store."
            " A custom [workers] state_store_backend must not apply to it.",
            code="not_proven",
        )
    task_state.delete_value(connection, task, COMMITMENT_KEY)


def _commitment(stored: str | None) -> str | None:
    if stored is None:
        return None
    try:
        value = json.loads(stored)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _earlier_actions(connection: Connection, task: Row[Any]) -> Sequence[Row[Any]]:
    """Return the actions of a task, newest first, locked until the transaction ends."""
    columns = action_table.c
    query = select(action_table).where(
        columns.dag_id == task.dag_id,
        columns.run_id == task.run_id,
        columns.task_id == task.task_id,
        columns.map_index == task.map_index,
        columns.iteration == task.iteration,
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
            "iteration": task.iteration,
            "registration_digest": claimant.digest,
            "secret": secret.encrypt(secret.new_secret()),
            "task_key": secret.encrypt(secret.new_secret()),
            "awaited": True,
            "state": State.STARTING.value,
            **rows.INITIAL_COLUMNS,
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
