# SPDX-License-Identifier: Apache-2.0
"""Operations, and tasks that launch them in a remote deployment: this one, through a connection to itself."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException

from airflow_asyncaction.dags import async_operation
from airflow_asyncaction.job import current_job
from airflow_asyncaction.operators import RemoteActionOperator

WAITS: dict[str, Any] = {"deferrable": False}
DEFERS: dict[str, Any] = {"deferrable": True, "defer_after": 0}


def remote(task_id: str, does: str, **options: Any) -> RemoteActionOperator:
    return RemoteActionOperator(
        task_id=task_id,
        operation="remote_work",
        arguments={"does": does, "name": "{{ ti.task_id }}"},
        asyncaction_conn_id="itself",
        poll_interval=0.5,
        **options,
    )


@async_operation(id="remote_work", type="remote.work", action={"stop_grace": 20})
def work(does: str, name: str) -> dict[str, Any]:
    """Behave as the caller requests."""
    job = current_job()
    job.progress(40, f"half of {name}")
    job.log(f"a line of {name}")
    if does == "fail":
        raise LookupError(f"{name} has no table orders")
    if does == "skip":
        raise AirflowSkipException(f"nothing for {name} today")
    if does == "run_on":
        assert job.info is not None
        (Path(os.environ["ASYNCACTION_TEST_FOLDER"]) / f"{name}.up").write_text(job.info.job_id)
        while not job.is_stopping():
            time.sleep(0.1)
        raise InterruptedError("stopped halfway")
    time.sleep(1)
    job.log(f"the last line of {name}")
    return {"did": name}


@async_operation(
    id="remote_retry", type="remote.retry", action={"retries": 1, "retry_delay": timedelta(hours=1)}
)
def retry(name: str) -> None:
    """Fail, and retry in an hour."""
    raise LookupError(f"{name} has no table orders")


with DAG("remote_ends", schedule=None) as remote_ends:
    remote("waits", "succeed", **WAITS)
    remote("defers", "succeed", **DEFERS)
    remote("waits_for_failure", "fail", **WAITS)
    remote("defers_for_failure", "fail", **DEFERS)
    remote("waits_for_skip", "skip", **WAITS)
    remote("defers_for_skip", "skip", **DEFERS)
    remote("launches", "succeed", wait_for_completion=False, schedule="2100-01-01T00:00:00Z")

    for task_id, ways in {"waits_for_retry": WAITS, "defers_for_retry": DEFERS}.items():
        RemoteActionOperator(
            task_id=task_id,
            operation="etl.flaky",
            arguments={"fails": 1},
            asyncaction_conn_id="itself",
            poll_interval=0.5,
            **ways,
        )

with DAG("remote_stops", schedule=None) as remote_stops:
    remote("killed", "run_on", **WAITS)
    remote("killed_deferred", "run_on", **DEFERS)
    remote("late", "run_on", execution_timeout=timedelta(seconds=25), **WAITS)
    remote("late_deferred", "run_on", execution_timeout=timedelta(seconds=25), **DEFERS)
    remote("stopped_there", "run_on", retries=3, **DEFERS)

    for task_id, ways in {"killed_between_tries": WAITS, "killed_between_tries_deferred": DEFERS}.items():
        RemoteActionOperator(
            task_id=task_id,
            operation="remote_retry",
            arguments={"name": task_id},
            asyncaction_conn_id="itself",
            poll_interval=0.5,
            **ways,
        )
