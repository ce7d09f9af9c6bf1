# SPDX-License-Identifier: Apache-2.0
"""Python callables that report progress: a decorated function, and an async function in an operator."""

from __future__ import annotations

import asyncio
import logging
import time

from airflow.sdk import DAG, task

from airflow_asyncaction.job import Job, current_job
from airflow_asyncaction.operators import ServiceActionOperator

log = logging.getLogger(__name__)


async def notify(total: int, job: Job) -> str:
    """Notify everybody."""
    for percent in (0, 50, 100):
        job.progress(percent, "notifying")
        await asyncio.sleep(0.5)
    return f"notified everybody about {total}"


with DAG("python_callable", schedule=None, tags=["asyncaction"], doc_md=__doc__) as dag:

    @task.async_action(type="example.callable")
    def add_up(numbers: list[int]) -> int:
        job = current_job()
        total = 0
        for index, number in enumerate(numbers):
            if job.is_stopping():
                break
            total += number
            job.progress(100 * (index + 1) / len(numbers), f"added {number}")
            log.info("the total is %d now", total)
            time.sleep(0.7)
        return total

    ServiceActionOperator(
        task_id="notify",
        type="example.async",
        python_callable=notify,
        op_kwargs={"total": add_up([1, 2, 3, 36])},
    )

if __name__ == "__main__":
    dag.test()
