# SPDX-License-Identifier: Apache-2.0
"""Command output: ``-o table|json|yaml|plain`` as in Airflow, with control characters escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from airflow_asyncaction.airflow_internals.server.commands import AirflowConsole
from airflow_asyncaction.protocol.reports import LogLine

Fields = Mapping[str, Any]
"""An action as a JSON object."""


def print_actions(actions: Sequence[Fields], output: str) -> None:
    """Print a list of actions: all fields as JSON and YAML, the main fields as a table."""
    _print([dict(action) for action in actions], [_main_fields(action) for action in actions], output)


def print_action(action: Fields, output: str) -> None:
    """Print one action with all its fields."""
    rows = [{"field": name, "value": _cell(value)} for name, value in action.items()]
    _print(dict(action), rows, output)


def print_line(line: LogLine, time: str | None) -> None:
    """Print one line of a job's log.

    :param time: time that the job reported for it, if any
    """
    print(f"{time or '-'} {line.level:<7} {escape_controls(line.message)}", flush=True)


def escape_controls(text: str) -> str:
    """Return a text without control characters, so that a job's output cannot control the terminal."""
    return "".join(char if char.isprintable() or char == "\t" else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def _print(data: Any, rows: list[dict[str, str]], output: str) -> None:
    """Print data unchanged, or as rows. Airflow's ``print_as`` would turn numbers and booleans into text."""
    console = AirflowConsole()
    match output:
        case "json":
            console.print_as_json(data)
        case "yaml":
            console.print_as_yaml(data)
        case "plain":
            console.print_as_plain_table(rows)
        case _:
            console.print_as_table([{name: escape(value) for name, value in row.items()} for row in rows])


def _main_fields(action: Fields) -> dict[str, str]:
    index = action["renderedMapIndex"] or action["mapIndex"]
    task = action["taskId"] if action["mapIndex"] < 0 else f"{action['taskId']}[{index}]"
    if action["iteration"] is not None:
        task += f" (iteration {action['iteration']})"
    fields = {
        "uuid": action["uuid"],
        "type": action["type"],
        "status": action["status"],
        "dag_id": action["dagId"],
        "run_id": action["runId"],
        "task": task,
        "progress": action["progress"],
        "created_at": action["createdAt"][:19] + "Z",
        "error": action["errorName"],
    }
    return {name: _cell(value) for name, value in fields.items()}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return escape_controls(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
