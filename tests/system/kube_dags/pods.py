# SPDX-License-Identifier: Apache-2.0
"""Pods that end in all possible ways, and pods that wait for the tests to end them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task
from kubernetes.client import models as k8s

from airflow_asyncaction.operators import KubeActionOperator

IMAGE = os.environ.get("ASYNCACTION_TEST_IMAGE", "python:3-slim")
CLIENT = "import sys; sys.path.insert(0, '/asyncaction/asyncaction.pyz')\n"
"""First lines of a Python program. The job client is in a ConfigMap, so any image with Python works."""

REPORTER = f"""{CLIENT}
from airflow_asyncaction.job import open_job
with open_job() as job:
    print("printed", flush=True)
    job.log("reported")
    job.progress(40, "loading")
    job.result({{"rows": 3, "deep": [None, {{"x": 0.5}}], "none": None}})
"""
WAITER = f"""{CLIENT}
import time
from airflow_asyncaction.job import open_job
with open_job() as job:
    print("up", flush=True)
    job.log("waits")
    for second in range(600):
        if job.is_stopping():
            print("told to stop", flush=True)
            sys.exit(1)
        job.log(f"second {{second}}")
        time.sleep(1)
"""

SMALL: dict[str, Any] = {"image": "busybox", "image_pull_policy": "IfNotPresent"}
PYTHON: dict[str, Any] = {
    "image": IMAGE,
    "image_pull_policy": "IfNotPresent",
    "volumes": [k8s.V1Volume(name="client", config_map=k8s.V1ConfigMapVolumeSource(name="asyncaction"))],
    "volume_mounts": [k8s.V1VolumeMount(name="client", mount_path="/asyncaction")],
}


def shell(task_id: str, command: str, **more: Any) -> KubeActionOperator:
    """Return a task with a shell job."""
    return KubeActionOperator(task_id=task_id, cmds=["sh", "-c", command], **{**SMALL, **more})


def python(task_id: str, program: str, **more: Any) -> KubeActionOperator:
    """Return a task with a Python job."""
    return KubeActionOperator(task_id=task_id, cmds=["python3", "-c", program], **{**PYTHON, **more})


def sleeper(task_id: str, seconds: int = 600, **more: Any) -> KubeActionOperator:
    """Return a task with a job that prints a line per second and does not report."""
    command = f"i=0; while [ $i -lt {seconds} ]; do echo line $i; i=$((i+1)); sleep 1; done"
    return shell(task_id, command, termination_grace_period=1, **more)


def some_ends(**mode: Any) -> None:
    """Create tasks that end in common ways."""
    shell("clean", "echo one; sleep 1; echo two", **mode)
    python("reports", REPORTER, **mode)
    shell("exit_3", "echo why; exit 3", **mode)
    limits = k8s.V1ResourceRequirements(limits={"memory": "32Mi"})
    shell("out_of_memory", "head -c 200m /dev/zero | tail", container_resources=limits, **mode)
    leave = "echo '{\"rows\": 3}' > /airflow/xcom/return.json"
    shell("return_file", leave, do_xcom_push=True, **mode)
    # Without the pause, a slow container runtime drops the output in its pipes when the container ends.
    shell("many_lines", "seq 1 50000; sleep 0.5", **mode)


def other_ends(**mode: Any) -> None:
    """Create tasks that end in all other ways that need no interaction."""
    python("mismatch", REPORTER + "sys.exit(4)", **mode)
    shell("skips", "exit 99", skip_on_exit_code=99, **mode)
    shell("no_image", "true", **{**mode, "image": "127.0.0.1:1/nothing:1", "image_pull_policy": "Always"})
    missing = k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name="nothing"))
    shell("no_config", "true", env_from=[missing], **mode)
    requests = k8s.V1ResourceRequirements(requests={"cpu": "1000"})
    shell("no_node", "true", container_resources=requests, start_timeout=3, **mode)
    shell("too_long", "sleep 60", active_deadline_seconds=2, **mode)
    prepare = k8s.V1Container(name="prepare", image="busybox", command=["sh", "-c", "exit 7"])
    shell("bad_init", "true", init_containers=[prepare], **mode)
    shell("in_clear", 'test -n "$JOB_SECRET_KEY"', job_secret="env", **mode)
    KubeActionOperator(task_id="manifest", job_resources=MANIFEST, **mode)


MANIFEST = """
apiVersion: batch/v1
kind: Job
metadata: {name: webda, labels: {job: "${JOB_ID}"}}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: job
          image: busybox
          command: [sh, -c, 'test "${JOB_ID}" = "$JOB_ID" -a -n "$JOB_SECRET_KEY" && echo whole manifest']
"""

AT_ONCE: dict[str, Any] = {"deferrable": True, "defer_after": 0}
FAST: dict[str, Any] = {"retry_delay": timedelta(0)}

with DAG("pods_waited_for", schedule=None):
    some_ends(deferrable=True, defer_after=300)  # they end before they would be deferred

with DAG("pods_deferred", schedule=None):
    some_ends(**AT_ONCE)
    other_ends(**AT_ONCE)

    @task
    def downstream(results: Any) -> Any:
        return results

    downstream(python("passes_on", REPORTER, **AT_ONCE).output)

    @task.async_action_kubernetes(**SMALL, **AT_ONCE)  # type: ignore[untyped-decorator]
    def decorated(number: int) -> str:
        return f"echo number {number}; exit $(({number} - 7))"

    decorated(7)

with DAG("pod_worker_killed", schedule=None):
    sleeper("waits", 25, deferrable=False, retries=1, **FAST)

with DAG("pod_triggerer_killed", schedule=None):
    sleeper("waits", 30, **AT_ONCE)

with DAG("pod_scheduler_killed", schedule=None):
    sleeper("deferred", 40, **AT_ONCE)
    sleeper("waited_for", 40, deferrable=False, retries=2, **FAST)

with DAG("pod_without_cluster", schedule=None):
    sleeper("deferred", 15, **AT_ONCE)
    sleeper("waited_for", 15, deferrable=False)

with DAG("pod_without_api_server", schedule=None):
    python("reports", f"import time; time.sleep(15)\n{REPORTER}", **AT_ONCE)

with DAG("pod_without_triggerer", schedule=None):
    python("reports", REPORTER, **AT_ONCE)

with DAG("pod_deleted", schedule=None):
    sleeper("waits", **AT_ONCE)

with DAG("pod_cleared", schedule=None):
    sleeper("waits", **AT_ONCE)

with DAG("pod_marked", schedule=None):
    python("waits", WAITER, stop_grace=5, **AT_ONCE)

with DAG("pod_run_deleted", schedule=None):
    sleeper("waits", deferrable=False, retries=1)

with DAG("pod_timed_out", schedule=None):
    sleeper("execution", execution_timeout=timedelta(seconds=12), **AT_ONCE)
    sleeper("heartbeat", heartbeat_timeout=8, **AT_ONCE)

with DAG("pod_submits", schedule=None):
    python("submits", "import os; os.environ.clear()", completion="report", heartbeat_timeout=300, **AT_ONCE)

with DAG("pod_left", schedule=None):
    sleeper("waits", deferrable=False, on_finish_action="keep_pod")
