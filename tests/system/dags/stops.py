# SPDX-License-Identifier: Apache-2.0
"""Jobs that never end by themselves: users, timeouts or faults end them."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_asyncaction.job import current_job
from airflow_asyncaction.operators import LocalActionOperator

JOB = [sys.executable, str(Path(__file__).parent / "jobs" / "job.py")]
SECOND_TIME_LUCKY = [*JOB, "second_time_lucky", "{{ ti.try_number }}"]


def wait_for_stop() -> None:
    job = current_job()
    assert job.info is not None
    (Path(os.environ["ASYNCACTION_TEST_FOLDER"]) / f"{job.info.job_id}.up").touch()
    while not job.is_stopping():
        time.sleep(0.1)
    job.log("asked to stop")


with DAG("stops", schedule=None) as stops:
    LocalActionOperator(task_id="obedient", command=[*JOB, "obey"], stop_grace=30)
    LocalActionOperator(task_id="stubborn", command=[*JOB, "ignore"], stop_grace=1)
    LocalActionOperator(
        task_id="cleared", command=SECOND_TIME_LUCKY, arguments={"result": "cleared"}, stop_grace=1
    )

    @task.async_action(stop_grace=30)
    def polite() -> None:
        wait_for_stop()
        raise InterruptedError("stopped halfway")

    @task.async_action(stop_grace=1)
    def deaf() -> None:
        wait_for_stop()
        time.sleep(3600)

    polite()
    deaf()

with DAG("stopped_run", schedule=None) as stopped_run:
    LocalActionOperator(task_id="ignore", command=[*JOB, "ignore"], stop_grace=1)

with DAG("clocks", schedule=None) as clocks:

    @task.async_action(execution_timeout=timedelta(seconds=15))
    def timed_out() -> None:
        job = current_job()
        try:
            time.sleep(3600)
        finally:
            job.fail("it tidied up", name="Unfinished")

    timed_out()
    LocalActionOperator(
        task_id="execution_timeout",
        command=[*JOB, "ignore"],
        execution_timeout=timedelta(seconds=4),
        stop_grace=1,
    )
    LocalActionOperator(
        task_id="heartbeat_timeout", command=[*JOB, "fall_silent"], heartbeat_timeout=2, stop_grace=1
    )
    LocalActionOperator(
        task_id="start_timeout",
        command=[*JOB, "submit", "sleep_long"],
        completion="report",
        start_timeout=3,
        stop_grace=1,
    )
    LocalActionOperator(
        task_id="submitted",
        command=[*JOB, "submit", "give_back"],
        completion="report",
        arguments={"result": "it was done elsewhere"},
    )


def second_time_lucky(task_id: str) -> None:
    LocalActionOperator(
        task_id=task_id,
        command=[*SECOND_TIME_LUCKY, task_id],
        arguments={"result": "second time lucky"},
        stop_grace=1,
        retries=1,
        retry_delay=timedelta(seconds=1),
    )


with DAG("lost_host", schedule=None) as lost_host:
    second_time_lucky("scheduler_killed")
    second_time_lucky("marked_failed")

with DAG("faults", schedule=None) as faults:
    for task_id in ("task_killed", "supervisor_killed", "supervisor_of_talker_killed"):
        second_time_lucky(task_id)

with DAG("outage", schedule=None) as outage:
    LocalActionOperator(task_id="outlive", command=[*JOB, "outlive"])
