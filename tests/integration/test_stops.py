# SPDX-License-Identifier: Apache-2.0
"""Jobs that are stopped while they report their end: the reported outcome counts."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import pytest
from sqlalchemy import select

from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.operators.attempt import Attempt
from airflow_asyncaction.protocol.actions import Completion, State, StopReason
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.lifecycle import Stop
from airflow_asyncaction.protocol.tasks import ActionSpec, TaskView
from airflow_asyncaction.runners.base import drop_airflow_variables
from airflow_asyncaction.runners.local import LocalRunner
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.models import action_table
from tests.integration.databases import Database
from tests.integration.running_tasks import RunningTask

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

pytestmark = pytest.mark.integration

TIMES = 10  # on each database
UP = "from airflow_asyncaction.job import open_job; import os, signal, time; job = open_job(); "
REPORTS_SUCCESS_AT_SIGTERM = f"""{UP}
def succeed(*_):
    job.succeed()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
signal.signal(signal.SIGTERM, succeed)
job.progress(1)
job.flush()
while True:
    time.sleep(1)
"""
REPORTS_SUCCESS_WHEN_TOLD_TO_STOP = f"""{UP}
job.progress(1)
job.flush()
while not job.is_stopping():
    job.progress(2)
    job.flush()
job.succeed()
time.sleep(60)
"""


TIDIES_UP = f"""{UP}
signal.signal(signal.SIGTERM, lambda *_: job.ask_to_stop())
job.progress(1)
job.flush()
while not job.is_stopping():
    time.sleep(0.01)
time.sleep(1)
job.fail("it tidied up for a second", name="Cancelled")
"""


class Stopped:
    """A job that is requested to stop once it runs, and that a task runs to its end."""

    def __init__(self, actions: Actions, hook_url: str, task: RunningTask, script: str) -> None:
        self._actions = actions
        self._hook = TaskHook(hook_url)
        spec = ActionSpec(type="stopped", runner="local")
        self._registration = self._hook.register(task.ti_id, task.commit(), spec)
        self.action_id: JobId = self._registration.info.job_id
        self._runner = LocalRunner(
            command=[sys.executable, "-c", script],
            environ=drop_airflow_variables(os.environ),
            cwd=None,
            stop_grace=timedelta(seconds=30),
            write_line=lambda *_: None,
            completion=Completion.EXIT,
        )

    def end(self) -> TaskView:
        log = cast("Logger", logging.getLogger("task"))
        interval = timedelta(seconds=0.05)
        attempt = Attempt(self._hook, self._registration, self._runner, log, poll_interval=interval)
        stopping = threading.Thread(target=self._stop_once_it_runs)
        stopping.start()
        view = attempt.run()
        stopping.join()
        assert view is not None
        return view

    def _stop_once_it_runs(self) -> None:
        credentials, hook = self._registration.credentials, self._hook.clone()
        while hook.read(credentials, patience=timedelta(minutes=1)).status_details is None:
            time.sleep(0.01)
        self._actions.apply_message(self.action_id, Stop(StopReason.REQUESTED), datetime.now(UTC))


def reported(database: Database, action_id: JobId) -> str | None:
    with database.engine.connect() as connection:
        query = select(action_table.c.reported).where(action_table.c.id == action_id)
        found: str | None = connection.scalar(query)
        return found


def test_success_before_our_own_signal_is_success(
    actions: Actions, mounted: str, new_task: Callable[..., RunningTask]
) -> None:
    for _ in range(TIMES):
        view = Stopped(actions, mounted, new_task(), REPORTS_SUCCESS_AT_SIGTERM).end()
        assert (view.state, view.exit) == (State.SUCCESS, '{"signal":"SIGTERM"}')
        assert view.stop_reason is StopReason.REQUESTED


def test_a_job_that_asks_whether_to_stop_has_its_grace_to_tidy_up(
    actions: Actions, mounted: str, new_task: Callable[..., RunningTask]
) -> None:
    view = Stopped(actions, mounted, new_task(), TIDIES_UP).end()
    assert (view.state, view.error_name, view.exit) == (State.STOPPED, "Cancelled", '{"code":0}')


def test_success_beside_our_own_signal_is_what_arrived(
    database: Database, actions: Actions, mounted: str, new_task: Callable[..., RunningTask]
) -> None:
    for _ in range(TIMES):
        stopped = Stopped(actions, mounted, new_task(), REPORTS_SUCCESS_WHEN_TOLD_TO_STOP)
        view = stopped.end()
        has_reported = reported(database, stopped.action_id) == "SUCCESS"
        assert view.state is (State.SUCCESS if has_reported else State.STOPPED)
