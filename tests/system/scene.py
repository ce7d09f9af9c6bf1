# SPDX-License-Identifier: Apache-2.0
"""Scene of the system tests: a deployment, its database, and the processes of its jobs."""

from __future__ import annotations

import configparser
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
from cryptography.fernet import Fernet
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.signing import Content, signed_headers
from airflow_asyncaction.protocol.tasks import TaskCredentials, TaskView
from airflow_asyncaction.store.secret import Secrets
from dev.airflow_api import TaskKey
from dev.deployment import Deployment
from tests.system.command_lines import CommandLines

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
"""Time limit of waits, generous for busy machines. All waits end as soon as their condition is met."""


@dataclass(frozen=True)
class StoredAction:
    """One row of ``async_action``."""

    id: str
    attempt: int
    state: str
    error_name: str | None
    error_message: str | None
    results: str | None
    status_details: str | None
    verb: str | None
    fenced: bool


class Scene:
    """The deployment shared by all system tests.

    :param folder: folder to which jobs write marks, ``<job id>.<name>``
    """

    def __init__(
        self, deployment: Deployment, engine: Engine, folder: Path, command_lines: CommandLines
    ) -> None:
        self.deployment = deployment
        self.api = deployment.api
        self.engine = engine
        self.folder = folder
        self.command_lines = command_lines
        self.runs: dict[str, str] = {}

    def trigger(self, *dag_ids: str, conf: dict[str, Any] | None = None) -> None:
        """Start one run of each Dag."""
        for dag_id in dag_ids:
            self.runs[dag_id] = self.api.trigger(dag_id, conf)

    def end_of(self, dag_id: str) -> str:
        """Wait for the end of the Dag run, and return its state."""
        return self.api.wait_for_run(dag_id, self.runs[dag_id], timeout_seconds=PATIENCE_SECONDS)

    def key(self, dag_id: str, task_id: str, map_index: int = -1) -> TaskKey:
        """Return the key of a task instance of the Dag run."""
        return TaskKey(dag_id, self.runs[dag_id], task_id, map_index)

    def state_of(self, dag_id: str, task_id: str) -> str:
        """Wait for a task's end and return its state."""
        states = frozenset({"success", "failed", "skipped", "upstream_failed"})
        return self.api.wait_for_task(self.key(dag_id, task_id), states, timeout_seconds=PATIENCE_SECONDS)

    def events(self, dag_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> list[str]:
        """Return the lines of a task's log."""
        return [entry.event for entry in self.api.log(self.key(dag_id, task_id, map_index), try_number)]

    def actions(self, dag_id: str, task_id: str, map_index: int = -1) -> list[StoredAction]:
        """Return the actions of a task instance, in order of their attempts."""
        columns = ", ".join(StoredAction.__dataclass_fields__)
        query = text(
            f"SELECT {columns} FROM async_action WHERE dag_id = :dag_id AND run_id = :run_id"  # noqa: S608
            " AND task_id = :task_id AND map_index = :map_index ORDER BY created_at"
        )
        values = {"dag_id": dag_id, "run_id": self.runs[dag_id], "task_id": task_id, "map_index": map_index}
        with self.engine.connect() as connection:
            return [
                StoredAction(**{**row, "id": str(row["id"])})
                for row in connection.execute(query, values).mappings()
            ]

    def action(self, dag_id: str, task_id: str, map_index: int = -1) -> StoredAction:
        """Return the only action of a task instance."""
        (action,) = self.actions(dag_id, task_id, map_index)
        return action

    def attempt(self, dag_id: str, task_id: str, number: int = 1) -> StoredAction:
        """Wait for the action of an attempt, and return it."""

        def look() -> StoredAction | None:
            actions = self.actions(dag_id, task_id)
            return next((action for action in actions if action.attempt == number), None)

        return eventually(look, f"attempt {number} of {dag_id}.{task_id}")

    def ended(self, dag_id: str, task_id: str, number: int = 1) -> StoredAction:
        """Wait for the end of an attempt's action, and return the action."""

        def look() -> StoredAction | None:
            action = self.attempt(dag_id, task_id, number)
            return action if action.state in ("SUCCESS", "ERROR", "TIMEOUT", "STOPPED") else None

        return eventually(look, f"the end of attempt {number} of {dag_id}.{task_id}")

    def mark(self, action: StoredAction, name: str) -> str:
        """Wait until a job writes ``<job id>.<name>``, and return its content."""
        path = self.folder / f"{action.id}.{name}"
        eventually(path.exists, f"{path.name}: {action}")
        return path.read_text()

    def up(self, dag_id: str, task_id: str) -> StoredAction:
        """Wait until the job of a task's first try is running. Return its action."""
        action = self.attempt(dag_id, task_id)
        self.mark(action, "up")
        return action

    def unfinished(self) -> list[str]:
        """Return a line for each task instance that has started but not ended."""
        query = text(
            "SELECT dag_id, run_id, task_id, map_index, state FROM task_instance"
            " WHERE state IS NOT NULL AND end_date IS NULL ORDER BY queued_dttm"
        )
        try:
            with self.engine.connect() as connection:
                return [" ".join(map(str, row)) for row in connection.execute(query)]
        except DBAPIError as error:
            return [f"not known: {error}"]

    def secrets(self) -> dict[str, Secrets]:
        """Return the decrypted secrets of all actions by id."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(self.deployment.home / "airflow.cfg")
        fernet = Fernet(parser["core"]["fernet_key"])
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT id, secret, task_key FROM async_action")).all()

        def clear(stored: str) -> str:
            return fernet.decrypt(stored.encode()).decode()

        return {
            str(row.id): Secrets(job=clear(row.secret), task=clear(row.task_key))
            for row in rows
            if row.task_key is not None  # it was registered
        }

    def send(self, action: StoredAction, content: Content) -> requests.Response:
        """Send a request as the job of an action, or as its task."""
        hook = f"{self.deployment.base_url}/async"
        known, is_task = self.secrets()[action.id], str(content.path).startswith("/task/")
        signer = TaskCredentials(JobId(action.id), known.task if is_task else known.job)
        headers = signed_headers(
            signer, content, time_ms=time.time_ns() // 1_000_000, nonce=secrets.token_hex(16)
        )
        query = f"?{content.query!s}" if content.query else ""
        with requests.Session() as session:
            session.trust_env = False
            url = f"{hook}{content.path!s}{query}"
            return session.request(content.method, url, data=content.body, headers=headers, timeout=60)

    def late_report(self, action: StoredAction) -> tuple[int, str]:
        """Report SUCCESS for an action that has ended. Return the status and error code of the response."""
        body = json.dumps({"status": "SUCCESS", "results": "too late"}).encode()
        answer = self.send(action, Content("POST", "/status", body=body))
        return answer.status_code, answer.json().get("error", "")

    def reported_lines(self, action: StoredAction) -> list[str]:
        """Return an action's log lines as its task reads them."""
        answer = self.send(action, Content("GET", "/task/action", "after=0"))
        return [line.message for line in TaskView.from_json(answer.json()).logs]


def eventually(look: Callable[[], T | None], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """Poll ``look`` until its result is true, and return the result."""
    give_up_at = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < give_up_at, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
    return found


def processes_of(action: StoredAction) -> list[str]:
    """Return pid and command line of each process with an action's id in its environment or command line.

    The guard has it in its command line, the job and its descendants in their environment.
    """
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if not entry.name.isdigit() or (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                continue
            command, environ = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            if action.id.encode() in command + environ:
                found.append(f"{entry.name} {command.decode(errors='replace')}")
    return found


def assert_gone(action: StoredAction) -> None:
    """Wait until all processes of an action have ended."""
    eventually(lambda: not processes_of(action), f"no process of {action} is left")
