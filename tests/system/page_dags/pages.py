# SPDX-License-Identifier: Apache-2.0
"""Jobs shown in tests of the page: running, with files, hostile, verbose, silent and retried ones."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.job import Request, current_job
from airflow_asyncaction.operators import LocalActionOperator

MARKUP = "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'><b id=pwned>!</b>"
SECONDS = 1200  # longer than these tests take: a test stops it
ROWS = 10_200  # more than the page keeps
LEVELS = ("INFO", "INFO", "DEBUG", "INFO", "WARNING", "INFO", "ERROR")


@task.async_action(type="etl.load", stop_grace=20)
def load() -> str:
    job = current_job()
    for second in range(SECONDS):
        if job.is_stopping():
            raise InterruptedError("asked to stop")
        job.progress(30 + 60 * second / SECONDS, f"loading partition {second + 1} of {SECONDS}")
        job.log(f"copied partition {second + 1}", LEVELS[second % len(LEVELS)])
        time.sleep(1)
    return "loaded"


@task.async_action(type="etl.report")
def leave() -> dict[str, int]:
    job = current_job()
    path = Path(tempfile.mkdtemp()) / "orders.csv"
    path.write_text("order,amount\n1,20\n2,30\n")
    for percent in (20, 60, 100):
        job.progress(percent, "writing the report")
        job.log(f"{percent} % of the report is written")
    job.upload("orders", path)
    return {"orders": 2}


@task.async_action(type="etl.hostile")
def harm() -> None:
    job = current_job()
    path = Path(tempfile.mkdtemp()) / MARKUP.replace("/", "")
    path.write_text(MARKUP)
    job.upload("harm", path, metadata={MARKUP: MARKUP})
    job.log(MARKUP)
    job.log(f"\u202e{MARKUP}", MARKUP[:16])
    job.progress(50, MARKUP)
    job.fail(MARKUP, MARKUP)


@task.async_action(type="etl.talk", max_log_lines=ROWS + 100)
def talk() -> None:
    job = current_job()
    for row in range(1, ROWS + 1):
        job.log(f"row {row} is there")
        if row % 1000 == 0:
            time.sleep(0.5)  # the number of unsent lines that a job keeps is limited
    job.log("wide " * 1000)


@task.async_action(type="etl.retried", retries=1, retry_delay=timedelta(seconds=15))
def retried() -> None:
    raise RuntimeError("not yet")


@task.async_action(type="etl.refused")
def be_refused() -> None:
    with suppress(ServerError):
        current_job().send(Request("POST", "/status", b'{"status": "NONSENSE", "results": "hunter2"}'))


with DAG("page_load", schedule=None, tags=["asyncaction"]):
    load()

with DAG("page_leave", schedule=None, tags=["asyncaction"]):
    leave()

with DAG("page_harm", schedule=None, tags=["asyncaction"]):
    harm()

with DAG("page_silent", schedule=None, tags=["asyncaction"]):
    LocalActionOperator(task_id="say", type="shell.echo", command="echo printed", arguments={"html": MARKUP})

with DAG("page_secret", schedule=None, tags=["asyncaction"]):
    LocalActionOperator(task_id="print", command="echo the password is hunter2; exit 3")
    be_refused()

with DAG("page_talk", schedule=None, tags=["asyncaction"]):
    talk()

with DAG("page_retried", schedule=None, tags=["asyncaction"]):
    retried()
