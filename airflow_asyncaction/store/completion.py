# SPDX-License-Identifier: Apache-2.0
"""Task completer: the only code that completes deferred tasks, in the transaction that ends their action.

A task that succeeded and needs no worker ends here, within milliseconds. All other tasks are resumed on a
worker, which raises the error of the action or stops the job.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, exists, or_, select
from sqlalchemy.orm import Session

from airflow_asyncaction.airflow_internals.server import deferred_tasks, task_instances
from airflow_asyncaction.airflow_internals.server.deferred_tasks import DeferredTask
from airflow_asyncaction.airflow_internals.server.task_instances import TaskInstanceState
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.actions import Action, State, find_expired_timeout, unix_ms
from airflow_asyncaction.protocol.files import Role
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.reports import SERVER_STREAM, LogLine
from airflow_asyncaction.protocol.tasks import RESULTS_CHANGED, TRIGGERS, Deferral, NeedsWorker
from airflow_asyncaction.store import reports, rows
from airflow_asyncaction.store.error_isolation import isolate_errors, redacted_traceback
from airflow_asyncaction.store.models import action_table, file_table

log = logging.getLogger(__name__)

_NOT_COMPLETED = (
    "Could not complete the task of action %s; a worker completes it, or the API server retries. %s"
)

_columns = action_table.c
# These columns may be large, and are not needed to decide whether a task is due.
_NOT_READ = {
    "arguments",
    "results",
    "status_details",
    "error_message",
    "agent",
    "job",
    "secret",
    "task_key",
    "masks",
    "sealed_arguments",
}
_MAY_BE_DUE = (
    rows.select_without(_NOT_READ)
    .join(task_instances.table, task_instances.row_id == _columns.ti_id)
    .where(
        task_instances.is_live(),
        task_instances.state == TaskInstanceState.DEFERRED.value,
        _columns.deferral.is_not(None),
        or_(
            _columns.ended_at.is_not(None),
            _columns.verb.is_not(None),
            _columns.heartbeat_timeout_seconds.is_not(None),
            _columns.start_timeout_seconds.is_not(None),
        ),
    )
)


@dataclass(frozen=True, kw_only=True)
class TaskCompleter:
    """Completes deferred tasks that are due.

    :param resume_delay: minimum time between deferral and resumption: the scheduler fails a task that resumes
        before it knows that the process that deferred it has ended
    :param exit_grace: how long a task waits for the exit of its job after the terminal report. If no runner
        reports an exit within this time, the report alone decides
    """

    resume_delay: timedelta = timedelta(seconds=10)
    exit_grace: timedelta = timedelta(seconds=10)

    def complete(self, connection: Connection, row: Row[Any], action: Action, now: datetime) -> None:
        """Complete the task of an action if it is deferred and due.

        An error does not roll back the report: the task is then resumed on a worker. If that fails as well,
        the reconciler retries (:meth:`find_due`).

        :param row: locked row of the action; it is always locked before the task instance
        :param action: current state of the action
        """
        if row.deferral is None or row.ti_id is None or not self._is_due(action, now):
            return
        for step in (self._complete, self._resume, self._resume_as_failed):
            try:
                with connection.begin_nested(), Session(bind=connection) as session:
                    is_done = step(session, row, action, now)
                    session.commit()  # of the savepoint
                    if is_done:
                        rows.write(connection, action.id, {"deferral": None})
            except Exception as error:  # noqa: BLE001 - whatever Airflow's code raises, the report is kept
                log.error(_NOT_COMPLETED, action.id, redacted_traceback(error))
            else:
                return

    def _is_due(self, action: Action, now: datetime) -> bool:
        if action.is_done:
            return True
        if action.ended_at is not None:
            return now - action.ended_at >= self.exit_grace
        return action.verb is not None  # a worker must stop the job

    def _complete(self, session: Session, row: Row[Any], action: Action, now: datetime) -> bool:
        """End the task as successful, or resume it if it needs a worker. Return whether this was done."""
        found = _deferred(session, row)
        if found is None:
            return False
        deferral = Deferral.from_json(strict_json.loads(row.deferral))
        if _needs_worker(session, deferral, action):
            return self._resume(session, row, action, now)
        if deferral.pushes_results:
            _push_results(session, found, action, now)
        deferred_tasks.succeed(session, found)
        return True

    def _resume(self, session: Session, row: Row[Any], action: Action, now: datetime) -> bool:
        """Resume the task on a worker if the resume delay has passed. Return whether this was done."""
        found = _deferred(session, row)
        if found is None or not self._may_resume(found, now):
            return False
        deferred_tasks.resume(session, found, action.id)
        return True

    def _resume_as_failed(self, session: Session, row: Row[Any], action: Action, now: datetime) -> bool:
        """Resume the task as if its trigger had failed, so that a worker reads the end of the action."""
        found = _deferred(session, row)
        if found is None or not self._may_resume(found, now):
            return False
        message = (
            f"The API server could not resume the task of action {action.id}. See its log for the reason\n"
        )
        deferred_tasks.resume_as_failed(session, found, message)
        return True

    def _may_resume(self, task: DeferredTask, now: datetime) -> bool:
        return now - task.deferred_at >= self.resume_delay

    def find_due(self, connection: Connection, now: datetime) -> Iterator[JobId]:
        """Yield the actions of deferred tasks that are due, or whose timeout expired."""
        for row in connection.execute(_MAY_BE_DUE):
            with isolate_errors(row.id):
                action = rows.to_action(row)
                if self._is_due(action, now) or find_expired_timeout(action, now) is not None:
                    yield action.id


def _deferred(session: Session, row: Row[Any]) -> DeferredTask | None:
    """Lock and return the task instance of an action, if it is deferred with one of our triggers."""
    return deferred_tasks.lock(session, row.ti_id, classpath_prefix=TRIGGERS)


def _needs_worker(session: Session, deferral: Deferral, action: Action) -> bool:
    if action.state is not State.SUCCESS or deferral.needs_worker is NeedsWorker.ALWAYS:
        return True
    if deferral.needs_worker is NeedsWorker.FOR_LOGS and action.exit is None:
        return True
    outputs = exists().where(file_table.c.action_id == action.id, file_table.c.role == Role.OUTPUT.value)
    return bool(session.scalar(select(outputs)))  # a worker pushes them as XComs


def _push_results(session: Session, task: DeferredTask, action: Action, now: datetime) -> None:
    """Store the results as a worker would: ``TaskSuccessEvent(xcoms=...)`` encodes them twice."""
    if action.results is None:
        return
    results, is_changed = strict_json.xcom_and_changed(action.results)
    if results is None:
        return
    if is_changed:
        line = LogLine(RESULTS_CHANGED, "WARNING", unix_ms(now), SERVER_STREAM)
        reports.reread_and_add_line(session.connection(), action.id, "results", line, now)
    deferred_tasks.push_return_value(session, task, results)
