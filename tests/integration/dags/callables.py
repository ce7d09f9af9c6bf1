# SPDX-License-Identifier: Apache-2.0
"""Callables, specified in all supported ways."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_asyncaction.job import Job, current_job
from airflow_asyncaction.operators import ServiceActionOperator

log = logging.getLogger("callables")


def add(first: int, second: int, *, word: str, task_instance: Any, job: Job) -> dict[str, object]:
    job.progress(10, "adding")
    job.log("by job.log")
    log.warning("by logging")
    return {"sum": first + second, "word": word, "task": task_instance.task_id, "given": job.arguments}


with DAG("callables", schedule=None, params={"word": "hello"}) as dag:
    ServiceActionOperator(
        task_id="adds",
        python_callable=add,
        op_args=[1, 2],
        op_kwargs={"word": "{{ params.word }}"},
        arguments={"from": "{{ params.word }}"},
    )

    @task.async_action
    async def awaits() -> str:
        await asyncio.sleep(0.01)
        current_job().log("awaited")
        return "awaited"

    @task.async_action
    def gives(value: Any) -> Any:
        return value

    @task.async_action
    def not_json() -> datetime:
        return datetime(2026, 1, 2, tzinfo=UTC)

    @task.async_action(multiple_outputs=True)
    def several() -> dict[str, Any]:
        return {"one": 1, "two": 2, "odd": ["a\0b", 2**70]}

    @task.async_action
    def raises() -> None:
        raise LookupError("there is no such table")

    @task.async_action
    def skips() -> None:
        raise AirflowSkipException("nothing to do")

    @task.async_action(execution_timeout=timedelta(seconds=1))
    def too_slow() -> None:
        import time

        time.sleep(60)

    @task.async_action
    def takes_context(*, job: Job, **context: Any) -> str:
        assert job is current_job()
        return str(context["task_instance"].task_id)

    awaits()
    gives.expand(value=[0, False, "", []])
    not_json()
    several()
    raises()
    skips()
    too_slow()
    takes_context()  # type: ignore[call-arg]

if __name__ == "__main__":
    dag.test()
