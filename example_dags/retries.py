# SPDX-License-Identifier: Apache-2.0
"""Retries: a command fails in its first try and succeeds in its second. Each try is a separate action."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_asyncaction.operators import LocalActionOperator

COMMAND = """
echo "try $TRY"
if [ "$TRY" -lt 2 ]; then
  echo "the disk is full" >&2
  exit 3
fi
"""

with DAG("retries", schedule=None, tags=["asyncaction"], doc_md=__doc__) as dag:
    LocalActionOperator(
        task_id="flaky",
        type="example.flaky",
        command=COMMAND,
        env={"TRY": "{{ ti.try_number }}"},
        retries=1,
        retry_delay=timedelta(seconds=1),
    )

if __name__ == "__main__":
    dag.test()
