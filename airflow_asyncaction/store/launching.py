# SPDX-License-Identifier: Apache-2.0
"""Actions that are asked for before their task runs: they are there at once, and their task registers them.

:func:`launch` writes an action's row, and then has Airflow create its Dag run. Anything may crash in between:
:func:`settle` ends what nothing will launch.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import Connection, Row, and_, bindparam, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from uuid6 import uuid7

from airflow_asyncaction.exceptions import ActionNotFound, UserRefused
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import SKIPPED, ActionOptions, State, StopReason
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Due, Stop, Unlaunched
from airflow_asyncaction.protocol.options import options_to_columns
from airflow_asyncaction.protocol.reports import well_formed
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.store import audit, masks, reports, rows, secret
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.audit import AuditEvent
from airflow_asyncaction.store.listing import ActionRecord, find, find_outlook
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.store.operations import Operation
from airflow_asyncaction.store.outages import one_of_many

RUN_GRACE = timedelta(minutes=1)
"""How long after an action was asked for its Dag run may be missing: its creation may be under way."""
_CREATION = timedelta(seconds=2)  # it seldom takes longer; who creates it again then is told that it is there
_PAUSE_SECONDS = 0.1
_BATCH = 200

_columns = action_table.c
_runs = DagRun.__table__.c
_tasks = TaskInstance.__table__.c
_ENDED_RUNS = (DagRunState.SUCCESS.value, DagRunState.FAILED.value)
_FAILED_TASKS = (TaskInstanceState.FAILED.value, TaskInstanceState.UPSTREAM_FAILED.value)
_WAITING = [state.value for state in State if state.is_waiting]
_RUN = select(_runs.id).where(_runs.dag_id == bindparam("dag_id"), _runs.run_id == bindparam("run_id"))
_IS_OF_ITS_TASK = and_(
    *(_tasks[name] == _columns[name] for name in ("dag_id", "run_id", "task_id", "map_index"))
)
_TO_SETTLE = (
    select(
        _columns.id,
        _columns.task_id,
        _runs.state.label("run_state"),
        _tasks.state.label("task_state"),
    )
    .outerjoin(DagRun.__table__, and_(_runs.dag_id == _columns.dag_id, _runs.run_id == _columns.run_id))
    .outerjoin(TaskInstance.__table__, _IS_OF_ITS_TASK)
    .where(
        _columns.state.in_(_WAITING),
        or_(
            _runs.state.in_(_ENDED_RUNS),
            and_(_runs.state.is_(None), _columns.requested_at < bindparam("missing_since")),
            and_(_columns.state == State.SCHEDULED.value, _columns.scheduled_at <= bindparam("now")),
        ),
    )
    .order_by(_columns.id)
    .limit(_BATCH)
)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What somebody asks for.

    :param arguments: of the action, validated, a JSON object
    :param requested_by: name of the user
    :param scheduled_at: when it is to run; ``None``: now
    :param idempotency_key: the same key of the same user for the same operation is the same action
    """

    operation: Operation
    arguments: JsonText
    requested_by: str
    scheduled_at: datetime | None = None
    idempotency_key: str | None = None

    @property
    def idempotency(self) -> str | None:
        """What is stored of the key: sha256, hex, of who asks, for what, and the key."""
        if self.idempotency_key is None:
            return None
        return _digest(self.requested_by, self.operation.id, self.idempotency_key)

    @property
    def request(self) -> str:
        """What is stored of the rest of what is asked for: sha256, hex."""
        arguments = json.dumps(strict_json.loads(self.arguments), sort_keys=True)
        return _digest(arguments, str(self.scheduled_at))


@dataclass(frozen=True)
class Queued:
    """An action that was asked for.

    :param is_new: whether it was this request that asked for it first
    """

    action: ActionRecord
    is_new: bool

    def is_what(self, wanted: Launch) -> bool:
        """Tell whether it is what is wanted: not so if a key was used before, with another input or time."""
        return bool(self.action.row.request == wanted.request)


@dataclass(frozen=True, kw_only=True)
class WantedRun:
    """A Dag run that Airflow is to create, unless it is there already.

    :param conf: the action's arguments
    """

    dag_id: str
    run_id: str
    conf: dict[str, Any]
    run_after: datetime


def launch(actions: Actions, wanted: Launch, create_run: Callable[[WantedRun], None]) -> ActionRecord:
    """Launch an operation, and return its action; or find the action that was launched under the same key.

    :param create_run: has Airflow create a Dag run; raises UserRefused if Airflow refuses
    :raises UserRefused: Airflow refuses, or the key was used for something else
    """
    now = datetime.now(UTC)
    queued = queue(actions, wanted, now)
    action = queued.action
    if not queued.is_what(wanted):
        said = "This idempotency key was used before, with another input or time: use a new one"
        raise UserRefused(said, code="idempotency_key_reused")
    if _needs_run(actions, queued):
        run = WantedRun(
            dag_id=action.dag_id,
            run_id=action.row.run_id,
            conf=strict_json.loads(wanted.arguments),
            run_after=wanted.scheduled_at or now,
        )
        try:
            create_run(run)
        except UserRefused as error:
            refuse(actions, action.id, str(error), datetime.now(UTC))
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
    """Ask an action's job to stop; one that is not launched yet never will be.

    One that has failed is not tried again. Airflow's audit log and the action's time line tell who did it.

    :param requested_by: name of the user
    :param method: how they did it, for the audit log
    :param fail_run: marks the action's Dag run as failed
    :param fail_task: marks the action's task instance as failed
    :raises UserRefused: it has ended, and is not to be tried again; or the next try is there already
    """
    audited = _stop_event(action, requested_by, method)
    before = action.state if action.state.is_end else _stop_unended(actions, action.id, audited)
    action = find(actions, action.id)
    if not before.is_end:
        if before.is_waiting:
            fail_run(action)
        return action
    if not _is_to_be_tried_again(actions, action):
        raise UserRefused(f"The action has ended as {action.state}", code="already_ended")
    fail_task(action)
    now = datetime.now(UTC)
    with actions.transaction() as connection:
        audit.record(connection, audited, now)
        reports.keep_message(connection, action.id, "stop", now, requested_by=requested_by)
        rows.write(connection, action.id, {"updated_at": now})  # so that pages see that there is more
    return action


def _stop_unended(actions: Actions, action_id: JobId, audited: AuditEvent) -> State:
    """Stop an action unless it has ended, maybe since it was read; return the state that it had."""
    stop, now = Stop(StopReason.REQUESTED), datetime.now(UTC)
    return actions.end(action_id, stop, now, unless=_has_ended, audited=audited).before.state


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


def _is_to_be_tried_again(actions: Actions, action: ActionRecord) -> bool:
    """Tell whether an action has failed and the next try is to come, as far as Airflow knows now."""
    if action.state is State.SUCCESS or action.row.stop_reason == StopReason.REQUESTED:
        return False
    outlook = find_outlook(actions, action)
    return not outlook.is_final and outlook.next_attempt is None


def queue(actions: Actions, wanted: Launch, now: datetime) -> Queued:
    """Write the action that is asked for, or find the one that was asked for under the same key."""
    action_id = JobId(str(uuid7()))
    try:
        with actions.transaction() as connection:
            connection.execute(insert(action_table), _row(action_id, wanted, now))
            reports.keep_message(connection, action_id, "queued", now, requested_by=wanted.requested_by)
    except IntegrityError:
        return Queued(_of_key(actions, wanted), is_new=False)
    return Queued(find(actions, action_id), is_new=True)


def _needs_run(actions: Actions, queued: Queued) -> bool:
    """Tell whether a Dag run is to be created for an action.

    Whoever asked first creates it; who asks again gives them a moment, since they may have failed, or died.
    """
    action = queued.action
    if queued.is_new or not action.state.is_waiting:
        return queued.is_new
    age = datetime.now(UTC) - action.row.requested_at
    give_up_at = time.monotonic() + (_CREATION - age).total_seconds()
    while not _has_run(actions, action):
        if time.monotonic() >= give_up_at:
            return True
        time.sleep(_PAUSE_SECONDS)
    return False


def _has_run(actions: Actions, action: ActionRecord) -> bool:
    with actions.transaction() as connection:
        key = {"dag_id": action.dag_id, "run_id": action.row.run_id}
        return connection.execute(_RUN, key).one_or_none() is not None


def refuse(actions: Actions, action_id: JobId, message: str, now: datetime) -> None:
    """End an action whose Dag run Airflow did not create; its key is free again."""
    actions.end(action_id, Unlaunched(State.ERROR, "RunRefused", message), now)
    _free_key(actions, action_id)


def settle(actions: Actions, now: datetime) -> None:
    """Queue the actions whose time has come, and end those that nothing will launch any more."""
    with actions.transaction() as connection:
        found = connection.execute(_TO_SETTLE, {"now": now, "missing_since": now - RUN_GRACE}).all()
    for row in found:
        with one_of_many(row.id):
            actions.end(row.id, _message(row), now)
            if row.run_state is None:
                _free_key(actions, row.id)


def _free_key(actions: Actions, action_id: JobId) -> None:
    """Let the key of an action that was never launched be used again."""
    with actions.transaction() as connection:
        connection.execute(update(action_table).where(_columns.id == action_id).values(idempotency=None))


def _message(row: Any) -> Due | Unlaunched:
    if row.run_state is None:
        return Unlaunched(State.STOPPED, "RunDeleted", "The Dag run is gone, or was never created")
    if row.run_state not in _ENDED_RUNS:
        return Due()
    if row.task_state == TaskInstanceState.SKIPPED.value:
        return Unlaunched(State.STOPPED, SKIPPED, "Airflow skipped the task before it launched the job")
    if row.run_state == DagRunState.FAILED.value:
        before = " before it launched the job" if row.task_id else ""
        return Unlaunched(State.ERROR, "RunFailed", f"The Dag run failed{before}")
    if row.task_state in _FAILED_TASKS:
        return Unlaunched(
            State.ERROR, "RunFailed", f"The task is {row.task_state}: it did not launch the job"
        )
    return Unlaunched(State.SUCCESS)


def _of_key(actions: Actions, wanted: Launch) -> ActionRecord:
    with actions.transaction() as connection:
        query = select(_columns.id).where(_columns.idempotency == wanted.idempotency)
        action_id = connection.scalar(query)
    if action_id is None:
        raise ActionNotFound("The action of this Idempotency-Key is gone")
    return find(actions, action_id)


def _row(action_id: JobId, wanted: Launch, now: datetime) -> dict[str, Any]:
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
        "registration": "",
        "secret": secret.encrypt(secret.new_secret()),
        **masks.argument_columns(wanted.arguments),
        **options_to_columns(ActionOptions(log_limit=0)),
        "state": (State.SCHEDULED if is_later else State.QUEUED).value,
        **rows.UNTOUCHED,
        "created_at": now,
        "updated_at": max(now, scheduled_at or now),  # by which it is old one day
        "adoptable": False,
        "requested_by": well_formed(wanted.requested_by)[:250],
        "requested_at": now,
        "scheduled_at": scheduled_at,
        "idempotency": wanted.idempotency,
        "request": wanted.request,
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
