# SPDX-License-Identifier: Apache-2.0
"""The same pods, once with Airflow's own operator and once with ours, both deferred from the start."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator

from airflow_asyncaction.operators import KubeActionOperator

OPERATORS: dict[str, Callable[..., BaseOperator]] = {
    "theirs": partial(KubernetesPodOperator, deferrable=True),
    "ours": partial(KubeActionOperator, deferrable=True, defer_after=0),
}
WAITING_PODS = 50

# The clock is read in the first and in the last instruction of the container.
_TIMED = 'date "+FIRST %s.%N"; sleep "$0"; exec date "+LAST %s.%N"'

for side, operator in OPERATORS.items():
    with DAG(f"benchmark_{side}_timed", schedule=None, catchup=False):
        operator(
            task_id="pod",
            image=os.environ["ASYNCACTION_TEST_IMAGE"],
            cmds=["sh", "-c", _TIMED],
            arguments=["{{ dag_run.conf['seconds'] }}"],
        )
    with DAG(f"benchmark_{side}_waiting", schedule=None, catchup=False, max_active_tasks=64):
        for number in range(WAITING_PODS):
            operator(
                task_id=f"pod_{number}",
                image="busybox",
                cmds=["sleep", "3600"],
                startup_timeout_seconds=600,
                retries=3,  # on a slow machine, starting so many may fail: only the waiting counts
                retry_delay=timedelta(seconds=1),
            )

with DAG("benchmark_many", schedule=None, catchup=False):
    EmptyOperator(task_id="waiting")
