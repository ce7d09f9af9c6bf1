# SPDX-License-Identifier: Apache-2.0
"""Launching: queues actions before their task runs. The task registers its queued action when it starts.

:func:`launch` inserts the row of an action, then lets Airflow create its Dag run. If the server crashes in
between, :func:`reconcile_queued` ends the action.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, insert, or_, select
from sqlalchemy.exc import IntegrityError
from uuid6 import uuid7

from airflow_asyncaction.airflow_internals.server import dag_runs, task_instances
from airflow_asyncaction.airflow_internals.server.dag_runs import DagRunState
from airflow_asyncaction.airflow_internals.server.task_instances import TaskInstanceState
from airflow_asyncaction.exceptions import ActionNotFound, UserRefused
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import SKIPPED, ActionOptions, State, StopReason
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Due, Stop, Unlaunched
from airflow_asyncaction.protocol.options import options_to_columns
from airflow_asyncaction.protocol.reports import replace_unstorable
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.store import audit, masks, reports, rows, secret
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.audit import AuditEvent
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.error_isolation import isolate_errors
from airflow_asyncaction.store.listing import ActionRecord, find, find_outlook
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.store.operations import Operation

RUN_GRACE = timedelta(minutes=1)
"""Grace period for a queued action without a Dag run: Airflow may still be creating the run."""
_CREATION = timedelta(seconds=2)  # rarely takes longer; a second attempt to create the run is harmless
_PAUSE_SECONDS = 0.1
_BATCH = 200

_columns = action_table.c
_ENDED_RUNS = (DagRunState.SUCCESS.value, DagRunState.FAILED.value)
_FAILED_TASKS = (TaskInstanceState.FAILED.value, TaskInstanceState.UPSTREAM_FAILED.value)
_WAITING = [state.value for state in State if state.is_waiting]
_RUN = select(dag_runs.row_id).where(
    dag_runs.matches({"dag_id": bindparam("dag_id"), "run_id": bindparam("run_id")})
)
_TO_RECONCILE = (
    select(
        _columns.id,
        _columns.task_id,
        dag_runs.state.label("run_state"),
        task_instances.state.label("task_state"),
    )
    .select_from(action_table)
    .outerjoin(dag_runs.table, dag_runs.matches(_columns))
    .outerjoin(task_instances.table, task_instances.matches(_columns))
    .where(
        _columns.state.in_(_WAITING),
        or_(
            dag_runs.state.in_(_ENDED_RUNS),
            and_(dag_runs.state.is_(None), _columns.requested_at < bindparam("missing_since")),
            and_(_columns.state == State.SCHEDULED.value, _columns.scheduled_at <= bindparam("now")),
        ),
    )
    .order_by(_columns.id)
    .limit(_BATCH)
)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A request to launch an operation.

    :param arguments: validated arguments of the action, a JSON object
    :param requested_by: user name
    :param scheduled_at: when to run the operation; ``None`` for now
    :param idempotency_key: if a user repeats a key for an operation, the same action is returned
    """

    operation: Operation
    arguments: JsonText
    requested_by: str
    scheduled_at: datetime | None = None
    idempotency_key: str | None = None

    @property
    def idempotency_digest(self) -> str | None:
        """Hex sha256 of user, operation and idempotency key; ``None`` without a key."""
        if self.idempotency_key is None:
            return None
        return _digest(self.requested_by, self.operation.id, self.idempotency_key)

    @property
    def request_digest(self) -> str:
        """Hex sha256 of the arguments and the scheduled time."""
        arguments = json.dumps(strict_json.loads(self.arguments), sort_keys=True)
        return _digest(arguments, str(self.scheduled_at))


@dataclass(frozen=True)
class Queued:
    """A queued action.

    :param is_new: whether this request queued it
    """

    action: ActionRecord
    is_new: bool

    def matches(self, wanted: Launch) -> bool:
        """Return whether the action matches a request. If not, its key was reused for a different one."""
        return bool(self.action.row.request_digest == wanted.request_digest)


@dataclass(frozen=True, kw_only=True)
class WantedRun:
    """A Dag run for Airflow to create, unless it exists.

    :param conf: arguments of the action
    """

    dag_id: str
    run_id: str
    conf: dict[str, Any]
    run_after: datetime


def launch(actions: Actions, wanted: Launch, create_run: Callable[[WantedRun], None]) -> ActionRecord:
    """Launch an operation and return its action, or return the action already launched with the same key.

    :param create_run: makes Airflow create a Dag run; raises UserRefused if Airflow refuses to
    :raises UserRefused: Airflow refuses to create the run, or the key was used with a different input or time
    """
    now = datetime.now(UTC)
    queued = queue(actions.database, wanted, now)
    action = queued.action
    if not queued.matches(wanted):
        message = "This idempotency key was used before with a different input or time. Use a new key."
        raise UserRefused(message, code="idempotency_key_reused")
    if _needs_run(actions.database, queued):
        run = WantedRun(
            dag_id=action.dag_id,
            run_id=action.row.run_id,
            conf=strict_json.loads(wanted.arguments),
            run_after=wanted.scheduled_at or now,
        )
        try:
            create_run(run)
        except UserRefused as error:
            end_refused(actions, action.id, str(error), datetime.now(UTC))
            raise
    return action


def stop(
    actions: Actions,
    action: ActionRecord,
    *,
    requested_by: str,
    method: str,
    fail_run: Callable[[ActionRecord], None],
    fail_task: Callable[[ActionRecord], None],
) -> ActionRecord:
    """Ask the job of an action to stop. A queued action is then not launched, and a failed one not retried.

    Airflow's audit log and the timeline of the action record who requested the stop.

    :param requested_by: user name
    :param method: HTTP method or ``CLI``, for the audit log
    :param fail_run: marks the Dag run of the action as failed
    :param fail_task: marks the task instance of the action as failed
    :raises UserRefused: the action has ended and will not be retried, or the next try exists
    """
    audited = _stop_event(action, requested_by, method)
    before = action.state if action.state.is_end else _stop_unless_ended(actions, action.id, audited)
    action = find(actions.database, action.id)
    if not before.is_end:
        if before.is_waiting:
            fail_run(action)
        return action
    if not _will_retry(actions.database, action):
        raise UserRefused(f"The action has already ended as {action.state}.", code="already_ended")
    fail_task(action)
    now = datetime.now(UTC)
    with actions.database.transaction() as connection:
        audit.record(connection, audited, now)
        reports.add_message(connection, action.id, "stop", now, requested_by=requested_by)
        rows.write(connection, action.id, {"updated_at": now})  # so that pages reload the timeline
    return action


def _stop_unless_ended(actions: Actions, action_id: JobId, audited: AuditEvent) -> State:
    """Stop an action unless it has ended in the meantime. Return its previous state."""
    stop, now = Stop(StopReason.REQUESTED), datetime.now(UTC)
    return actions.apply_message(action_id, stop, now, unless=_has_ended, audited=audited).before.state


def _has_ended(_: Connection, row: Row[Any]) -> bool:
    return State(row.state).is_end


def _stop_event(action: ActionRecord, requested_by: str, method: str) -> AuditEvent:
    row = action.row
    return AuditEvent(
        event=audit.STOP,
        owner=requested_by,
        dag_id=row.dag_id,
        run_id=row.run_id,
        task_id=row.task_id or None,
        map_index=row.map_index,
        try_number=row.attempt,
        extra={"uuid": row.id, "method": method},
    )


def _will_retry(database: Database, action: ActionRecord) -> bool:
    """Return whether an action has failed and Airflow currently plans a retry."""
    if action.state is State.SUCCESS or action.row.stop_reason == StopReason.REQUESTED:
        return False
    outlook = find_outlook(database, action)
    return not outlook.is_final and outlook.next_attempt is None


def queue(database: Database, wanted: Launch, now: datetime) -> Queued:
    """Insert a queued action, or return the one queued with the same key."""
    action_id = JobId(str(uuid7()))
    try:
        with database.transaction() as connection:
            connection.execute(insert(action_table), _queued_columns(action_id, wanted, now))
            reports.add_message(connection, action_id, "queued", now, requested_by=wanted.requested_by)
    except IntegrityError:
        return Queued(_find_by_key(database, wanted), is_new=False)
    return Queued(find(database, action_id), is_new=True)


def _needs_run(database: Database, queued: Queued) -> bool:
    """Return whether this request must create the Dag run of an action.

    The first request creates it. A repeated request waits briefly for the run, and creates it itself if the
    first request failed or its server died.
    """
    action = queued.action
    if queued.is_new or not action.state.is_waiting:
        return queued.is_new
    age = datetime.now(UTC) - action.row.requested_at
    give_up_at = time.monotonic() + (_CREATION - age).total_seconds()
    while not _has_run(database, action):
        if time.monotonic() >= give_up_at:
            return True
        time.sleep(_PAUSE_SECONDS)
    return False


def _has_run(database: Database, action: ActionRecord) -> bool:
    with database.transaction() as connection:
        key = {"dag_id": action.dag_id, "run_id": action.row.run_id}
        return connection.execute(_RUN, key).one_or_none() is not None


def end_refused(actions: Actions, action_id: JobId, message: str, now: datetime) -> None:
    """End an action whose Dag run Airflow refused to create. Its idempotency key can be used again."""
    actions.apply_message(action_id, Unlaunched(State.ERROR, "RunRefused", message), now)
    _free_key(actions.database, action_id)


def reconcile_queued(actions: Actions, now: datetime) -> None:
    """Queue scheduled actions that are due, and end queued actions that nothing will launch."""
    with actions.database.transaction() as connection:
        found = connection.execute(_TO_RECONCILE, {"now": now, "missing_since": now - RUN_GRACE}).all()
    for row in found:
        with isolate_errors(row.id):
            actions.apply_message(row.id, _reconcile_message(row), now)
            if row.run_state is None:
                _free_key(actions.database, row.id)


def _free_key(database: Database, action_id: JobId) -> None:
    """Clear the idempotency key of an action that was never launched, so that it can be used again."""
    with database.transaction() as connection:
        connection.execute(rows.changed().where(_columns.id == action_id).values(idempotency_digest=None))


def _reconcile_message(row: Any) -> Due | Unlaunched:
    if row.run_state is None:
        return Unlaunched(State.STOPPED, "RunDeleted", "The Dag run was deleted or never created.")
    if row.run_state not in _ENDED_RUNS:
        return Due()
    if row.task_state == TaskInstanceState.SKIPPED.value:
        return Unlaunched(State.STOPPED, SKIPPED, "Airflow skipped the task before it launched the job.")
    if row.run_state == DagRunState.FAILED.value:
        before = " before it launched the job" if row.task_id else ""
        return Unlaunched(State.ERROR, "RunFailed", f"The Dag run failed{before}.")
    if row.task_state in _FAILED_TASKS:
        return Unlaunched(
            State.ERROR, "RunFailed", f"The task is {row.task_state} and did not launch the job."
        )
    return Unlaunched(State.SUCCESS)


def _find_by_key(database: Database, wanted: Launch) -> ActionRecord:
    with database.transaction() as connection:
        query = select(_columns.id).where(_columns.idempotency_digest == wanted.idempotency_digest)
        action_id = connection.scalar(query)
    if action_id is None:
        raise ActionNotFound("The action launched with this Idempotency-Key was deleted.")
    return find(database, action_id)


def _queued_columns(action_id: JobId, wanted: Launch, now: datetime) -> dict[str, Any]:
    scheduled_at = wanted.scheduled_at
    is_later = scheduled_at is not None and scheduled_at > now
    return {
        "id": action_id,
        "type": wanted.operation.declaration.type[:250],
        "runner": "",
        "attempt": 1,
        "dag_id": wanted.operation.id,
        "run_id": f"async__{action_id}",
        "task_id": wanted.operation.task_id,
        "map_index": -1,
        "iteration": task_instances.NO_ITERATION,
        "registration_digest": "",
        "secret": secret.encrypt(secret.new_secret()),
        **masks.argument_columns(wanted.arguments),
        **options_to_columns(ActionOptions(max_log_lines=0)),
        "state": (State.SCHEDULED if is_later else State.QUEUED).value,
        **rows.INITIAL_COLUMNS,
        "created_at": now,
        "updated_at": max(now, scheduled_at or now),  # `airflow db clean` goes by it
        "adoptable": False,
        "requested_by": replace_unstorable(wanted.requested_by)[:250],
        "requested_at": now,
        "scheduled_at": scheduled_at,
        "idempotency_digest": wanted.idempotency_digest,
        "request_digest": wanted.request_digest,
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
