# SPDX-License-Identifier: Apache-2.0
"""Ten actions that run until the tests let them go on, and one of each kind that ends at once."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_asyncaction.operators import KubeActionOperator, LocalActionOperator

WAIT = 'until [ -e "$ASYNCACTION_TEST_FOLDER/go" ]; do sleep 0.2; done'
GO = os.environ.get("ASYNCACTION_TEST_GO")
"""URL that exists as soon as pods may go on; unset without a cluster."""
RETRIED: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(seconds=1)}

with DAG("upgrading", schedule=None, default_args=RETRIED):
    LocalActionOperator.partial(task_id="local").expand(command=[["sh", "-c", WAIT]] * 5)
    if GO:
        KubeActionOperator.partial(task_id="pod", image="busybox", deferrable=True).expand(
            cmds=[["sh", "-c", f"until wget -q -O /dev/null {GO}; do sleep 0.5; done"]] * 5
        )

with DAG("short", schedule=None):
    LocalActionOperator(task_id="command", command=["true"]) >> LocalActionOperator.partial(
        task_id="mapped"
    ).expand(command=[["true"], ["true"]])

    @task.async_action
    def adds_up(first: int, second: int) -> int:
        return first + second

    adds_up(1, 2)
