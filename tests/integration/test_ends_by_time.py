# SPDX-License-Identifier: Apache-2.0
"""Jobs that are ended by a timeout or a user: the server knows the reason before the job does."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select, update

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.job import Job
from airflow_asyncaction.operators import LocalActionOperator
from airflow_asyncaction.operators.attempt import Attempt
from airflow_asyncaction.protocol.actions import Completion, State, StopReason
from airflow_asyncaction.protocol.lifecycle import Stop
from airflow_asyncaction.protocol.runner_messages import RunnerMessage
from airflow_asyncaction.protocol.tasks import ActionSpec, TaskCredentials, TaskView
from airflow_asyncaction.runners.base import Runner, drop_airflow_variables
from airflow_asyncaction.runners.local import LocalRunner
from airflow_asyncaction.runners.service import ServiceRunner
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.models import action_table, report_table
from tests.integration.databases import Database
from tests.integration.running_tasks import RunningTask

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("database", ["postgresql"], indirect=True)]

LONG = timedelta(hours=1)
SHORT = timedelta(seconds=0.2)
A_MOMENT = 0.3

COMMAND = """
import os, pathlib, signal, sys, time
from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.job import open_job
how, folder = sys.argv[1], pathlib.Path(sys.argv[2])
job = open_job()
def end(*_):
    (folder / "signalled").touch()
    while how == "late" and not (folder / "go").exists():
        time.sleep(0.01)
    try:
        job.fail("it tidied up", name="Mine")
    except ServerError as error:
        (folder / "refused").write_text(f"{error.status} {error.code}")
    os._exit(3)
signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "never" else end)
job.progress(1)
job.flush()
while True:
    time.sleep(1)
"""


class SlowHook(TaskHook):
    """Takes a moment before it tells a reason to stop, and notes whether the job knew of it before."""

    def __init__(self, base_url: str, *, signalled: Path, **options: Any) -> None:
        super().__init__(base_url, **options)
        self._signalled = signalled
        self.knew_before: list[bool] = []

    def clone(self) -> SlowHook:
        hook = SlowHook(self.base_url, signalled=self._signalled, ti_id=self.ti_id)
        hook.knew_before = self.knew_before
        return hook

    def send_message(self, credentials: TaskCredentials, message: RunnerMessage, **options: Any) -> TaskView:
        if isinstance(message, Stop):
            time.sleep(A_MOMENT)
            self.knew_before.append(self._signalled.exists())
        return super().send_message(credentials, message, **options)


class TimedJob:
    """A job that runs until its timeout expires, then reports ERROR: immediately, late or never.

    Late is when the server has settled the matter as far as it does so by itself.
    """

    def __init__(
        self, database: Database, actions: Actions, hook_url: str, task: RunningTask, how: str, folder: Path
    ) -> None:
        self.database, self.actions, self.task = database, actions, task
        self._how, self._folder = how, folder
        self._hook = SlowHook(hook_url, signalled=folder / "signalled")
        spec = ActionSpec(type="timed", runner="local", heartbeat_timeout=LONG)
        self.registration = self._hook.register(task.ti_id, task.commit(), spec)
        self.action_id = self.registration.info.job_id
        self.grace = SHORT if how == "never" else LONG

    def command(self) -> Runner:
        return LocalRunner(
            command=[sys.executable, "-c", COMMAND, self._how, str(self._folder)],
            environ=drop_airflow_variables(os.environ),
            cwd=None,
            stop_grace=self.grace,
            write_line=lambda *_: None,
            completion=Completion.EXIT,
        )

    def callable(self) -> Runner:
        return ServiceRunner(call=self._call, stop_grace=self.grace, log=_log())

    def _call(self, job: Job) -> None:
        job.progress(1)
        job.flush()
        try:
            while self._how == "never" or not job.is_stopping():
                time.sleep(0.01)
        finally:  # Airflow's timeout is raised in it
            (self._folder / "signalled").touch()
            while self._how == "late" and not (self._folder / "go").exists():
                time.sleep(0.01)
            if self._how != "never":
                self._fail(job)

    def _fail(self, job: Job) -> None:
        try:
            job.fail("it tidied up", name="Mine")
        except ServerError as error:
            (self._folder / "refused").write_text(f"{error.status} {error.code}")

    def run(self, runner: Runner, end: Callable[[TimedJob], None], *, late: str) -> None:
        """Carry it out as a task does, under Airflow's own timeout, and end it once it runs."""
        attempt = Attempt(
            self._hook,
            self.registration,
            runner,
            _log(),
            poll_interval=timedelta(seconds=0.05),
            has_timeout=True,
        )
        signal.signal(signal.SIGTERM, lambda *_: attempt.kill())  # as a task process does
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ending = threading.Thread(target=self._end_once_it_runs, args=(end, late))
        ending.start()
        with suppress(AirflowTaskTimeout, KeyboardInterrupt), timeout(LONG.total_seconds()):
            attempt.run()
        ending.join()

    def _end_once_it_runs(self, end: Callable[[TimedJob], None], late: str) -> None:
        self.wait_until(lambda view: view.status_details is not None)
        end(self)
        self.wait_until(lambda view: view.is_done or (late == "asked" and view.stop_reason is not None))
        (self._folder / "go").touch()

    def run_again(self) -> None:
        """Register the next try of its task."""
        again = self.task.next_try()
        self._hook.register(again.ti_id, again.commit(), ActionSpec(type="timed", runner="local"))

    def wait_until(self, is_met: Callable[[TaskView], bool]) -> None:
        hook = self._hook.clone()
        while not is_met(hook.read(self.registration.credentials, patience=LONG)):
            time.sleep(0.01)

    def view(self) -> TaskView:
        return self._hook.clone().read(self.registration.credentials, patience=LONG)

    def refusals(self) -> list[tuple[str, bool]]:
        """Return the codes of the refused reports, and whether their contents are stored."""
        columns = report_table.c
        query = select(columns.refused_with, columns.body).where(
            columns.action_id == self.action_id, columns.refused_with.is_not(None)
        )
        with self.database.engine.connect() as connection:
            return [(code, "it tidied up" in body) for code, body in connection.execute(query)]

    @property
    def knew_before_the_server(self) -> bool:
        """Whether the job was stopped before the server knew the reason. Resent messages do not matter."""
        return any(self._hook.knew_before[:1])

    def told_refusal(self) -> str | None:
        path = self._folder / "refused"
        return path.read_text() if path.exists() else None


def _log() -> Logger:
    return cast("Logger", logging.getLogger("task"))


def time_out(_job: TimedJob) -> None:
    """Let Airflow's ``execution_timeout`` expire: its alarm goes off."""
    os.kill(os.getpid(), signal.SIGALRM)


def interrupt(_job: TimedJob) -> None:
    """Let any other exception than that of the clock be raised: Ctrl-C, under ``dag.test()``."""
    os.kill(os.getpid(), signal.SIGINT)


def fall_silent(job: TimedJob) -> None:
    """Let its last report be long ago."""
    long_ago = {"last_report_at": datetime.now(UTC) - 2 * LONG}
    while not job.view().is_done:  # it may report meanwhile
        with job.database.engine.begin() as connection:
            connection.execute(
                update(action_table).where(action_table.c.id == job.action_id).values(**long_ago)
            )


def stop(job: TimedJob) -> None:
    job.actions.apply_message(job.action_id, Stop(StopReason.REQUESTED), datetime.now(UTC))


def mark_failed(job: TimedJob) -> None:
    job.task.set_state(TaskInstanceState.FAILED)
    os.kill(os.getpid(), signal.SIGTERM)


def clear(job: TimedJob) -> None:
    job.task.set_state(TaskInstanceState.RESTARTING)
    os.kill(os.getpid(), signal.SIGTERM)


def shut_worker_down(_job: TimedJob) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


MINE, CLOCK, ASKED, KILLED, SILENT = (
    (State.TIMEOUT, "Mine"),
    (State.TIMEOUT, "ExecutionTimeout"),
    (State.STOPPED, "Requested"),
    (State.STOPPED, "Killed"),
    (State.TIMEOUT, "HeartbeatTimeout"),
)
STOPPED_MINE = (State.STOPPED, "Mine")
ENDS: dict[tuple[Callable[[TimedJob], None], str], tuple[State, str]] = {
    (time_out, "at once"): MINE,
    (time_out, "late"): MINE,
    (time_out, "never"): CLOCK,
    (interrupt, "at once"): STOPPED_MINE,
    (interrupt, "late"): STOPPED_MINE,
    (interrupt, "never"): KILLED,
    (fall_silent, "at once"): SILENT,
    (fall_silent, "late"): SILENT,
    (fall_silent, "never"): SILENT,
    (stop, "at once"): STOPPED_MINE,
    (stop, "late"): STOPPED_MINE,
    (stop, "never"): ASKED,
    (mark_failed, "at once"): STOPPED_MINE,
    (mark_failed, "late"): KILLED,
    (mark_failed, "never"): KILLED,
    (clear, "at once"): STOPPED_MINE,
    (clear, "late"): KILLED,
    (clear, "never"): KILLED,
    (shut_worker_down, "at once"): STOPPED_MINE,
    (shut_worker_down, "late"): KILLED,
    (shut_worker_down, "never"): KILLED,
}
"""Outcome of each, as in PROTOCOL.md, section 4."""
CASES = [
    (kind, end, how)
    for kind in ("command", "callable")
    for end, how in ENDS
    if (kind, end) != ("callable", interrupt)  # who presses Ctrl-C interrupts the callable itself
]


@pytest.fixture
def handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGALRM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("kind", "end", "how"), CASES, ids=lambda part: getattr(part, "__name__", str(part)))
def test_the_end_of_a_job_whose_time_is_up(
    kind: str,
    end: Callable[[TimedJob], None],
    how: str,
    database: Database,
    actions: Actions,
    mounted: str,
    new_task: Callable[..., RunningTask],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = TimedJob(database, actions, mounted, new_task(), how, tmp_path)
    is_asked = end in (time_out, interrupt, stop)
    if how == "late" and not is_asked:  # the action ends before: it need not take long
        monkeypatch.setattr("airflow_asyncaction.operators.attempt._KILLED_TASK_SECONDS", 0.1)
    runner: Any = getattr(job, kind)()
    job.run(runner, end, late="asked" if is_asked else "ended")
    assert not job.knew_before_the_server
    view = job.view()
    assert (view.state, view.error_name, view.is_done) == (*ENDS[end, how], True)
    is_refused = how != "never" and view.error_name != "Mine"
    assert job.told_refusal() == ("410 superseded" if is_refused else None)
    if is_refused:  # its content is on the action's timeline
        assert ("superseded", True) in job.refusals()
    if end is clear:
        job.run_again()
        assert job.view() == view


class OutOfTime(list[str]):
    """Inputs that are still being uploaded when Airflow's ``execution_timeout`` expires."""

    is_given = False

    def __iter__(self) -> Iterator[str]:
        if self.is_given:
            os.kill(os.getpid(), signal.SIGALRM)
        return super().__iter__()


@pytest.mark.usefixtures("handlers")
def test_a_task_that_times_out_before_its_job_has_its_inputs(
    database: Database, actions: Actions, mounted: str, new_task: Callable[..., RunningTask], tmp_path: Path
) -> None:
    job = TimedJob(database, actions, mounted, new_task(), "never", tmp_path)
    orders = OutOfTime(["/dev/null"])
    operator = LocalActionOperator(task_id="task", command="true", inputs={"orders": orders})
    orders.is_given = True
    with pytest.raises(AirflowTaskTimeout), timeout(LONG.total_seconds()):
        operator._attach_inputs(TaskHook(mounted), job.registration.credentials)
    view = job.view()
    assert (view.state, view.error_name, view.is_done) == (*CLOCK, True)
