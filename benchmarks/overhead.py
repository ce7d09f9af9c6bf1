# SPDX-License-Identifier: Apache-2.0
"""Overhead of a LocalActionOperator over a BashOperator, with a command that does nothing."""

from __future__ import annotations

import statistics
from datetime import datetime

from dev.airflow_api import TaskKey
from dev.deployment import Deployment

DAG_ID = "benchmark_overhead"
_RUNS = 15


def run(airflow: Deployment) -> None:
    """Run the benchmark; print both medians and their difference."""
    airflow.api.wait_for_dags({DAG_ID})
    airflow.api.unpause(DAG_ID)
    seconds: dict[str, list[float]] = {"bash": [], "local_action": []}
    for number in range(_RUNS + 1):
        run_id = airflow.api.trigger(DAG_ID)
        state = airflow.api.wait_for_run(DAG_ID, run_id)
        if state != "success":
            raise RuntimeError(f"a run of {DAG_ID} ended as {state}")
        for task_id, all_seconds in seconds.items():
            task = airflow.api.task_instance(TaskKey(DAG_ID, run_id, task_id))
            if number > 0:  # the first run is a warm-up
                all_seconds.append(_seconds(task["start_date"], task["end_date"]))
    theirs, ours = (statistics.median(seconds[task_id]) for task_id in ("bash", "local_action"))
    print(f"\nFrom a task's start to its end, the command being true; median of {_RUNS}\n")
    print(f"BashOperator         {theirs:6.3f} s")
    print(f"LocalActionOperator  {ours:6.3f} s")
    print(f"overhead             {ours - theirs:6.3f} s   ratio {ours / theirs:.2f} x")


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
