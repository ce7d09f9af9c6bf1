# SPDX-License-Identifier: Apache-2.0
"""Unmodified program: a wrapper reports its start, its output and its exit."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow.sdk import DAG

from airflow_asyncaction.operators import LocalActionOperator

JOBS = Path(__file__).parent / "jobs"
WRAPPED = [sys.executable, "-m", "airflow_asyncaction.job", "run", "--"]

with DAG("unmodified_program", schedule=None, tags=["asyncaction"], doc_md=__doc__) as dag:
    LocalActionOperator(
        task_id="copy",
        type="example.unmodified",
        command=[*WRAPPED, "sh", str(JOBS / "unmodified.sh")],
        require_report=True,
        heartbeat_timeout=60,
    )

if __name__ == "__main__":
    dag.test()
