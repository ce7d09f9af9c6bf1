# SPDX-License-Identifier: Apache-2.0
"""One task for each way in which a job can end, and for each kind of result and arguments."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow.sdk import DAG

from airflow_asyncaction.operators import LocalActionOperator

JOB = [sys.executable, str(Path(__file__).parent / "jobs" / "job.py")]
# Larger than a request may be, and six times as large in JSON.
LONG_LINE = [sys.executable, "-c", "print('\u00e9' * 525_000)"]
COMMANDS = {
    "success_0": [*JOB, "success", "0"],
    "success_1": [*JOB, "success", "1"],
    "error_0": [*JOB, "error", "0"],
    "none_0": "echo done",
    "none_3": [*JOB, "quiet", "3"],
    "signal": [*JOB, "killed"],
    "not_found": ["/nonexistent/program"],
    "long_line": LONG_LINE,
}
RESERVED = {"__classname__": "builtins.dict", "__type": "set", "__var": [1], "plain": 1}

with DAG("ends", schedule=None) as ends:
    for task_id, command in COMMANDS.items():
        LocalActionOperator(task_id=task_id, command=command)
    LocalActionOperator(task_id="no_report", command="echo done", require_report=True)

with DAG("results", schedule=None, params={"canary": "none"}) as results:
    LocalActionOperator.partial(task_id="falsy", command=[*JOB, "give_back"]).expand(
        arguments=[{"result": 0}, {"result": False}, {"result": ""}, {"result": None}, {"result": []}]
    )
    LocalActionOperator(task_id="reserved", command=[*JOB, "give_back"], arguments={"result": RESERVED})
    LocalActionOperator(task_id="odd", command=[*JOB, "give_odd"])
    LocalActionOperator(task_id="small", command=[*JOB, "take_arguments"], arguments={"numbers": [1, 2, 3]})
    LocalActionOperator(
        task_id="large", command=[*JOB, "take_arguments"], arguments={"numbers": list(range(20_000))}
    )
    LocalActionOperator(task_id="spread", command=[*JOB, "show", "{{ params.canary }}"])
