# SPDX-License-Identifier: Apache-2.0
"""Jobs that receive or read the password of a connection, and leak it in all possible ways."""

from __future__ import annotations

import json
import logging
import os
import sys

from airflow.sdk import DAG, BaseHook, task

from airflow_asyncaction.job import current_job
from airflow_asyncaction.operators import LocalActionOperator

PASSWORD = 'p@ss "word"/1'
os.environ["AIRFLOW_CONN_MASKED"] = json.dumps({"conn_type": "generic", "password": PASSWORD})
REPORT = """
from airflow_asyncaction.job import open_job
job = open_job()
dsn = job.arguments["dsn"]
job.log(f"reported: {dsn}")
job.progress(50, f"with {dsn}")
job.result({"dsn": dsn})
"""
ARGUMENTS = {"dsn": "db://{{ conn.masked.password }}@host"}

log = logging.getLogger("masking")

with DAG("masking", schedule=None, default_args={"stop_grace": 1}) as dag:
    LocalActionOperator(task_id="prints", command='echo "given: $JOB_ARGUMENTS"; exit 3', arguments=ARGUMENTS)
    LocalActionOperator(task_id="reports", command=[sys.executable, "-c", REPORT], arguments=ARGUMENTS)

    @task.async_action
    def logs() -> str | None:
        password = BaseHook.get_connection("masked").password
        log.info("logged: %s", password)
        current_job().progress(50, f"with {password}")
        return password

    @task.async_action
    def fails() -> None:
        raise LookupError(f"no {BaseHook.get_connection('masked').password}")

    logs()
    fails()

if __name__ == "__main__":
    dag.test()
