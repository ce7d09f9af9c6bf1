# SPDX-License-Identifier: Apache-2.0
"""Operations from functions, types with schemas, and webda's file, and Dags that only have the tag."""

from __future__ import annotations

import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

from airflow_asyncaction.dags import async_operation, load_operations
from airflow_asyncaction.job import Job, Request
from airflow_asyncaction.operators import AsyncActionOperator, LocalActionOperator


@async_operation(id="etl.load", permission="role = 'loader'", action={"stop_grace": 20})
def load(table: str, day: date = date(2026, 1, 2), seconds: float = 0, *, job: Job) -> dict[str, str | int]:
    """Load a table."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not job.is_stopping():
        job.progress(50, "loading")
        time.sleep(0.2)
    job.log(f"loaded {table}")
    job.upload("report", Path(__file__), name="report.py")
    return {"table": table, "weekday": day.isoweekday()}


@async_operation(id="etl.flaky", action={"retries": 1, "retry_delay": timedelta(seconds=1)})
def flaky(fails: int, *, job: Job) -> int:
    """Fail a number of times."""
    attempt = int(job.send(Request("GET", "/job"))["attempt"])
    if attempt <= fails:
        raise RuntimeError(f"attempt {attempt} fails")
    return attempt


@async_operation(id="etl.fails", action={"retries": 1, "retry_delay": timedelta(minutes=10)})
def fails() -> None:
    """Fail, with a long delay before the next try."""
    raise RuntimeError("it fails")


async_operation(
    type="echo.said",
    input={
        "type": "object",
        "properties": {"text": {"type": "string", "maxLength": 40}, "times": {"type": "integer"}},
        "required": ["text"],
        "additionalProperties": False,
    },
)
load_operations(Path(__file__).with_name("operations.json"), tags=["webda"])

with DAG("tagged", tags=["async-operation"], params={"n": Param(1, type="integer")}, schedule=None):
    BashOperator(task_id="fails", bash_command="exit {{ params.n }}")

with DAG("tagged_mapped", tags=["async-operation"], schedule=None):
    LocalActionOperator.partial(task_id="each").expand(command=["true", "true"])

with DAG("tagged_later", tags=["async-operation"], schedule=None):
    first = BashOperator(task_id="first", bash_command="true")
    second: Any = AsyncActionOperator(task_id="second", type="echo.second", arguments={"a": 1})
    first >> second
