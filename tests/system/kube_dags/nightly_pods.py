# SPDX-License-Identifier: Apache-2.0
"""Cron for pods: runs a deferred pod every night at three. No worker waits for it."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_asyncaction.operators import KubeActionOperator

with DAG("nightly_pods", schedule="0 3 * * *", catchup=False, tags=["asyncaction"], doc_md=__doc__) as dag:
    KubeActionOperator(
        task_id="vacuum",
        type="example.vacuum",
        image="busybox",
        image_pull_policy="IfNotPresent",
        cmds=["sh", "-c", "echo vacuuming orders"],
        deferrable=True,
    )

if __name__ == "__main__":
    dag.test()
