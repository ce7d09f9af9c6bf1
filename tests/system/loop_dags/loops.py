# SPDX-License-Identifier: Apache-2.0
"""Loops of Airflow 3.4: a command, a callable, and a mapped command in each iteration."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task, task_group

from airflow_asyncaction.job import current_job
from airflow_asyncaction.operators import LocalActionOperator

FAILS: dict[str, Any] = {"retries": 1, "retry_delay": timedelta(hours=1)}


def loop(group: Any, *, max_iterations: int) -> None:
    group.loop(max_iterations=max_iterations)  # the types are those of Airflow 3.3, which has no loops


with DAG("loops", schedule=None):

    @task_group
    def body() -> None:
        echo = LocalActionOperator(task_id="echo", command=["echo", "iteration {{ loop.index }}"])
        each = LocalActionOperator.partial(task_id="each").expand(
            command=[["echo", "first"], ["echo", "second"]]
        )

        @task.async_action
        def count(**context: Any) -> int:
            current_job().progress(50, f"iteration {context['loop'].index}")
            return int(context["loop"].index)

        echo >> each >> count()

    loop(body, max_iterations=3)

with DAG("retried_loops", schedule=None):

    @task_group
    def fails_once() -> None:
        LocalActionOperator(
            task_id="fails_once",
            command=["sh", "-c", "exit {{ 1 if ti.try_number == 1 and loop.index == 1 else 0 }}"],
            retries=1,
            retry_delay=timedelta(seconds=1),
        )

    loop(fails_once, max_iterations=2)

with DAG("stopped_loops", schedule=None):

    @task_group
    def sleeps() -> None:
        LocalActionOperator.partial(
            task_id="sleeps", stop_grace=timedelta(seconds=1), retries=2, retry_delay=timedelta(hours=1)
        ).expand(
            command=[["true"], ["sh", "-c", "{% if loop.index == 1 %}sleep 600{% else %}true{% endif %}"]]
        )

    loop(sleeps, max_iterations=2)

with DAG("waiting_loops", schedule=None):

    @task_group
    def waits() -> None:
        LocalActionOperator(task_id="waits", command=["sh", "-c", "exit {{ loop.index }}"], **FAILS)

    loop(waits, max_iterations=2)

with DAG("waiting_mapped_loops", schedule=None):

    @task_group
    def waits_mapped() -> None:
        LocalActionOperator.partial(task_id="waits", **FAILS).expand(
            command=[["true"], ["sh", "-c", "exit {{ loop.index }}"]]
        )

    loop(waits_mapped, max_iterations=2)
