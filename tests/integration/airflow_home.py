# SPDX-License-Identifier: Apache-2.0
"""Temporary AIRFLOW_HOME on SQLite, in which Dags run without any Airflow server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from tests.airflow_release import STATES_OF_DAG, XCOMS_OF_DAG

DAGS = Path(__file__).with_name("dags")

_ACTIONS = """
    SELECT task_id, map_index, id, state, error_name, error_message FROM async_action
    WHERE dag_id = :dag_id ORDER BY attempt"""
_LINES = """
    SELECT task_id, map_index, logs FROM async_action_report AS report
    JOIN async_action AS action ON action.id = report.action_id
    WHERE dag_id = :dag_id AND logs IS NOT NULL ORDER BY report.id"""


@dataclass(frozen=True)
class ActionRow:
    """One action as it is stored."""

    id: str
    state: str
    error_name: str | None
    error_message: str | None

    @property
    def end(self) -> tuple[str, str | None]:
        return self.state, self.error_name


@dataclass(frozen=True)
class DagRun:
    """Results of a Dag run by task. Mapped task instances are named ``task[index]``.

    :param actions: actions of all attempts, in order
    :param reported: messages of the reported log lines
    """

    log: str
    states: Mapping[str, str]
    actions: Mapping[str, list[ActionRow]]
    xcoms: Mapping[str, Mapping[str, Any]]
    reported: Mapping[str, list[str]]

    def result(self, task: str) -> Any:
        """Return the result of a task."""
        return self.xcoms[task]["return_value"]

    def end(self, task: str) -> tuple[str, str | None]:
        """Return the state and error of a task's last action."""
        return self.actions[task][-1].end

    def said(self, line: str) -> int:
        """Return how often the task log contains exactly this line of a job."""
        return self.log.count(f"] {line} ")


@dataclass(frozen=True)
class Home:
    """An AIRFLOW_HOME with the Dags of these tests."""

    folder: Path

    @property
    def database(self) -> Path:
        """Path of the database file."""
        return self.folder / "airflow.db"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        return subprocess.run(
            [sys.executable, *command],
            env={
                **environ,
                "AIRFLOW_HOME": str(self.folder),
                "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def execute(self, statement: str, **parameters: str) -> list[Any]:
        """Execute a statement in the database, and return its rows, if any."""
        engine = create_engine(f"sqlite:///{self.database}")
        try:
            with engine.begin() as connection:
                result = connection.execute(text(statement), parameters)
                return list(result) if result.returns_rows else []
        finally:
            engine.dispose()

    def run_dag(self, dag_id: str, *command: str) -> DagRun:
        """Run a command that runs a Dag once, and collect its results."""
        done = self.run(*command)
        actions: dict[str, list[ActionRow]] = defaultdict(list)
        for task_id, index, *fields in self.execute(_ACTIONS, dag_id=dag_id):
            actions[_named(task_id, index)].append(ActionRow(*fields))
        xcoms: dict[str, dict[str, Any]] = defaultdict(dict)
        for task_id, index, key, value in self.execute(XCOMS_OF_DAG, dag_id=dag_id):
            xcoms[_named(task_id, index)][key] = json.loads(str(value))  # SQLite makes numbers of numbers
        reported: dict[str, list[str]] = defaultdict(list)
        for task_id, index, logs in self.execute(_LINES, dag_id=dag_id):
            reported[_named(task_id, index)] += [line["message"] for line in json.loads(logs)]
        return DagRun(
            log=done.stdout + done.stderr,
            states={
                _named(task_id, index): state
                for task_id, index, state in self.execute(STATES_OF_DAG, dag_id=dag_id)
            },
            actions=actions,
            xcoms=xcoms,
            reported=reported,
        )


def _named(task_id: str, map_index: int) -> str:
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"
