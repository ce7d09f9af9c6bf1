# SPDX-License-Identifier: Apache-2.0
"""Edge cases: retries, mapping with templates, unusual results, unusual ends."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_asyncaction.job import Job
from airflow_asyncaction.operators import LocalActionOperator, ServiceActionOperator

JOBS = Path(__file__).with_name("jobs")
TELL = [sys.executable, str(JOBS / "tell.py")]
AT_ONCE = timedelta(0)

log = logging.getLogger("edges")


def double(number: int) -> int:
    return 2 * number


def look_up(table: str) -> None:
    raise LookupError(f"there is no table {table}")


with DAG(
    "edges",
    schedule=None,
    params={"word": "hello"},
    template_searchpath=[str(Path(__file__).with_name("scripts"))],
    default_args={"stop_grace": 1},
) as dag:
    # Each of these looks like the name of a template file, but only one is.
    LocalActionOperator.partial(
        task_id="mapped_arguments", command=[*TELL, "notes.sh"], env={"GREETING": "{{ params.word }}.sh"}
    ).expand(arguments=[{"script": "{{ params.word }}.sh"}, {"script": "run.bash"}])
    LocalActionOperator.partial(task_id="mapped_commands").expand(
        command=["greet.sh", "echo bash x.sh", [*TELL, "{{ params.word }}.sh"]]
    )
    ServiceActionOperator.partial(task_id="mapped_callable", python_callable=double).expand(
        op_kwargs=[{"number": 1}, {"number": 2}]
    )
    LocalActionOperator.partial(
        task_id="updates",
        command=[sys.executable, str(JOBS / "leave.py")],
        output_assets={"n": Asset("updated_by_map"), "no": Asset("not_updated_by_map")},
    ).expand(arguments=[{"n": 1}, {"n": 2}])
    LocalActionOperator(task_id="folder", command=TELL, cwd=JOBS)
    LocalActionOperator(
        task_id="tries_again",
        command="exit {{ 1 if task_instance.try_number == 1 else 0 }}",
        retries=1,
        retry_delay=AT_ONCE,
    )

    @task.async_action(retries=1, retry_delay=AT_ONCE)
    def recovers(task_instance: Any) -> int:
        if task_instance.try_number == 1:
            look_up("orders")
        return int(task_instance.try_number)

    @task.async_action(retries=3)
    def gives_up() -> None:
        raise AirflowFailException("no retry will help")

    @task.async_action
    def exits() -> None:
        sys.exit(3)

    @task.async_action
    def is_large() -> str:
        return "x" * 2_000_000

    @task.async_action
    def is_no_xcom() -> object:
        return object()

    @task.async_action
    def logs(job: Job) -> None:
        log.info("first line")
        job.log("second line")
        try:
            look_up("customers")
        except LookupError:
            log.exception("third line")

    @task.async_action
    def adds(base: int, number: int, job: Job) -> int:
        job.progress(100)
        return base + number

    @task.async_action
    def updates_unknown(number: int) -> int:
        return number

    @task.async_action
    def takes_own_job(job: str) -> str:
        return job

    @task.async_action_local
    def returns_text(script: str) -> str:
        return f"echo {{{{ params.word }}}} from {script}; : x.sh"

    @task.async_action_local
    def returns_nothing() -> None:
        """Return nothing, by mistake."""

    @task.async_action_local
    def skips_command() -> str:
        raise AirflowSkipException("nothing to run")

    recovers()  # type: ignore[call-arg]
    gives_up()
    exits()
    is_large()
    is_no_xcom()
    logs()  # type: ignore[call-arg]
    adds.partial(base=10).expand(number=[1, 2])
    updates_unknown.override(output_assets={"n": Asset("unknown")}).expand(number=[1])
    takes_own_job(job="mine")
    takes_own_job.override(task_id="takes_own_job_by_position")("mine")
    returns_text("load.sh")
    returns_nothing()
    skips_command()

if __name__ == "__main__":
    dag.test()
