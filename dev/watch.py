# SPDX-License-Identifier: Apache-2.0
"""Follows Dag runs through Airflow's public REST API and shows their actions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_asyncaction.protocol.human_readable import format_size
from dev.airflow_api import DAG_RUN_ENDS, TASK_ENDS, AirflowApi, LogEntry, TaskKey
from dev.screen import Screen

_PROGRESS = re.compile(r"progress (\d+(?:\.\d+)?) %(?: (.*))?")
_OF_OPERATOR = re.compile(r"(Registered action|Action) [0-9a-f-]{36} (of type|ended as) ")
_SHOWN_STATES = frozenset({"running", "up_for_retry", *TASK_ENDS})
_QUIET_POLLS = {False: 1, True: 6}
"""Number of polls without new lines after which the log of an ended task counts as complete, by whether it
failed: a task that was marked as failed still has to stop its job."""
_OPERATORS = "airflow.task.operators.airflow_asyncaction"
_SIGNS = {"success": ("✔", "green"), "failed": ("✘", "red"), "skipped": ("↷", "grey")}


@dataclass(frozen=True)
class Outcome:
    """How one task instance ended.

    :param tries: number of tries
    :param lines: log lines of all tries
    :param log: log file of the last try
    """

    name: str
    state: str
    result: str
    seconds: float
    tries: int
    lines: tuple[str, ...]
    log: Path


class RunWatch:
    """A Dag run in progress.

    :param on_line: called with each log line of the run's tasks
    :param logs: Airflow's log folder
    """

    def __init__(
        self,
        api: AirflowApi,
        screen: Screen,
        dag_id: str,
        run_id: str,
        on_line: Callable[[TaskKey, str], None],
        logs: Path,
    ) -> None:
        self.dag_id = dag_id
        self.run_id = run_id
        self.outcomes: list[Outcome] = []
        self._api = api
        self._screen = screen
        self._on_line = on_line
        self._logs = logs
        self._lines: dict[tuple[TaskKey, int], list[str]] = {}
        self._ended: set[TaskKey] = set()
        self._quiet_polls: dict[TaskKey, int] = {}

    def poll(self) -> bool:
        """Show what is new. Return whether the run has ended and all of it has been shown."""
        has_ended = self._api.dag_run(self.dag_id, self.run_id)["state"] in DAG_RUN_ENDS
        instances = self._api.task_instances(self.dag_id, self.run_id)
        for instance in instances:
            key = TaskKey(self.dag_id, self.run_id, instance["task_id"], instance["map_index"])
            if key not in self._ended and instance["state"] in _SHOWN_STATES:
                self._poll_task(key, instance)
        return has_ended and len(self._ended) == len(instances)

    def _poll_task(self, key: TaskKey, instance: dict[str, Any]) -> None:
        state = instance["state"]
        has_more = [self._show_log(key, number) for number in range(1, instance["try_number"] + 1)]
        self._quiet_polls[key] = 0 if any(has_more) else self._quiet_polls.get(key, 0) + 1
        if state in TASK_ENDS and self._quiet_polls[key] >= _QUIET_POLLS[state == "failed"]:
            self._ended.add(key)
            self._show_end(key, instance)

    def _show_log(self, key: TaskKey, number: int) -> bool:
        """Show the new lines of a try; return whether there were any."""
        lines = self._lines.setdefault((key, number), [])
        new = [entry for entry in self._api.log(key, number) if is_of_job(entry)][len(lines) :]
        for entry in new:
            lines.append(entry.event)
            self._show_entry(key, entry)
        return bool(new)

    def _show_entry(self, key: TaskKey, entry: LogEntry) -> None:
        name = task_name(key)
        if progress := _PROGRESS.fullmatch(entry.event):
            self._screen.bar(name, float(progress[1]), progress[2] or "")
        else:
            self._screen.event(name, self._coloured(entry))
        self._on_line(key, entry.event)

    def _coloured(self, entry: LogEntry) -> str:
        if entry.level in ("warning", "error", "critical"):
            return self._screen.colour(entry.event, "yellow")
        return self._screen.colour(entry.event, "grey") if _OF_OPERATOR.match(entry.event) else entry.event

    def _show_end(self, key: TaskKey, instance: dict[str, Any]) -> None:
        state, tries = instance["state"], instance["try_number"]
        seconds = float(instance["duration"] or 0)
        values = self._api.xcoms(key)
        result = json.dumps(values["return_value"]) if "return_value" in values else ""
        name = task_name(key)
        sign, colour = _SIGNS.get(state, ("•", "grey"))
        attempt = f" on try {tries}" if tries > 1 else ""
        self._screen.remove_bar(name)
        summary = f"{sign} {state}{attempt} in {seconds:.1f} s"
        self._screen.event(
            name, self._screen.colour(summary, colour, bold=True) + (f"  {result}" if result else "")
        )
        for file in (file for files in values.get("files", {}).values() for file in files):
            size, digest = format_size(file["size"]), file["sha256"][:12]
            what = f"{file['property']}[{file['index']}] {file['name']}, {size}, sha256 {digest}..."
            self._screen.event(name, self._screen.colour(f"  XCom files: {what}", "grey"))
        lines = [line for (other, _), lines in self._lines.items() if other == key for line in lines]
        log = self._log_file(key, tries)
        self.outcomes.append(Outcome(name, state, result, seconds, tries, tuple(lines), log))

    def _log_file(self, key: TaskKey, try_number: int) -> Path:
        folder = self._logs / f"dag_id={key.dag_id}" / f"run_id={key.run_id}" / f"task_id={key.task_id}"
        if key.map_index >= 0:
            folder /= f"map_index={key.map_index}"
        return folder / f"attempt={try_number}.log"


def task_name(key: TaskKey) -> str:
    """Return the display name of a task instance."""
    index = "" if key.map_index < 0 else f"[{key.map_index}]"
    return f"{key.dag_id}.{key.task_id}{index}"


def is_of_job(entry: LogEntry) -> bool:
    """Return whether a line comes from the job or its operator rather than from Airflow itself."""
    if entry.logger.startswith(_OPERATORS):
        return True
    return not entry.logger.startswith("airflow.") and entry.logger not in ("task", "")
