# SPDX-License-Identifier: Apache-2.0
"""Task features of Airflow: callables, mapping, pools, trigger rules, callbacks, skipping."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseHook, TriggerRule, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_asyncaction.job import current_job
from airflow_asyncaction.operators import LocalActionOperator

JOB = [sys.executable, str(Path(__file__).parent / "jobs" / "job.py")]
log = logging.getLogger(__name__)


def note_failure(context: Any) -> None:
    folder = Path(os.environ["ASYNCACTION_TEST_FOLDER"])
    (folder / f"failed-{context['ti'].task_id}").write_text(str(context["exception"]))


with DAG("callables", schedule=None) as callables:

    @task.async_action(on_failure_callback=note_failure)
    def raises() -> None:
        raise LookupError("there is no table orders")

    @task.async_action
    def skips() -> None:
        raise AirflowSkipException("nothing to load today")

    @task.async_action
    def logs() -> int:
        job = current_job()
        log.info("about to load")
        job.log("a line of the job's own", level="WARNING")
        job.progress(50, "half of it")
        log.warning("loaded nothing")
        return 0

    @task.async_action
    def logs_password() -> str | None:
        password = BaseHook.get_connection("masked").password
        log.info("logged: %s", password)
        current_job().progress(50, f"with {password}")
        return password

    @task.async_action
    async def awaits(seconds: float) -> str:
        await asyncio.sleep(seconds)
        log.info("awaited")
        return "awaited"

    @task.async_action_local
    def commands(word: str) -> list[str]:
        return ["echo", word]

    failing = raises()
    LocalActionOperator(task_id="shows_secret", command="echo its secret is $JOB_SECRET_KEY; exit 3")
    LocalActionOperator(
        task_id="shows_password",
        command='echo "given: $JOB_ARGUMENTS"; exit 3',
        arguments={"dsn": "db://{{ conn.masked.password }}@host"},
    )
    rescue = LocalActionOperator(
        task_id="rescue", command="echo rescued", trigger_rule=TriggerRule.ONE_FAILED
    )
    dependent = LocalActionOperator(task_id="dependent", command="true")
    failing >> [rescue, dependent]
    skips() >> LocalActionOperator(task_id="after_skip", command="true")
    logs()
    logs_password()
    awaits(0.1)
    commands("decorated")

with DAG("wide", schedule=None) as wide:
    meet = LocalActionOperator.partial(task_id="meet", command=[*JOB, "meet", "5"]).expand(
        arguments=[{"number": number} for number in range(5)]
    )

    @task.async_action
    def add_up(numbers: Any) -> int:
        return sum(numbers)

    add_up(meet.output)

with DAG("pooled", schedule=None) as pooled:
    for name in ("one", "two"):
        LocalActionOperator(task_id=name, command="sleep 1", pool="narrow")
