# SPDX-License-Identifier: Apache-2.0
"""First pods: one that prints, and one that reports."""

from __future__ import annotations

from airflow.sdk import DAG
from kubernetes.client import models as k8s

from airflow_asyncaction.operators import KubeActionOperator

PROGRAM = """
import sys
sys.path.insert(0, "/asyncaction/asyncaction.pyz")  # the job client
from airflow_asyncaction.job import open_job
with open_job() as job:
    job.progress(50, "halfway")
    job.log(f"loading {job.arguments['table']}")
    job.result({"rows": 3})
"""

with DAG("first_pod", schedule=None):
    prints = KubeActionOperator(
        task_id="prints",
        image="busybox",
        image_pull_policy="IfNotPresent",
        cmds=["sh", "-c", "echo hello from $JOB_ID"],
    )
    reports = KubeActionOperator(
        task_id="reports",
        image="python:3-slim",
        image_pull_policy="IfNotPresent",
        cmds=["python3", "-c", PROGRAM],
        arguments={"table": "orders"},
        volumes=[k8s.V1Volume(name="client", config_map=k8s.V1ConfigMapVolumeSource(name="asyncaction"))],
        volume_mounts=[k8s.V1VolumeMount(name="client", mount_path="/asyncaction")],
        require_report=True,
    )
    prints >> reports
