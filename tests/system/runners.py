# SPDX-License-Identifier: Apache-2.0
"""``[asyncaction] runners`` of both deployments, which run the same Dag (``dags/routed.py``)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.requirements import WEBDA_APPLICATION, WEBDA_IMAGE

PROGRAM = """
import json, os, sys
arguments = json.loads(os.environ["JOB_ARGUMENTS"])
if "code" in arguments:
    print("exits soon", flush=True)
    sys.exit(arguments["code"])
from airflow_asyncaction.job import open_job
with open_job() as job:
    job.log("echoes " + sys.argv[1])
    job.result({"type": sys.argv[1], **arguments})
"""
"""Program that returns its arguments, or exits with the code in them."""

WEBDA_COMMAND = [
    "node_modules/.bin/webda",
    "--noCompile",
    "launch",
    "AsyncService",
    "runAsyncOperationAction",
]
WEBDA_ACTIONS = ["AsyncWebdaAction", "ShopService.*"]
WEBDA_POD = f"""\
apiVersion: batch/v1
kind: Job
metadata:
  name: ${{serviceName}}-${{JOB_ID}}
spec:
  template:
    spec:
      containers:
        - image: ${{image}}
          name: ${{serviceName}}
          workingDir: /webda
          command: [sh, -c, 'echo "sells in $PLACE" && exec {" ".join(WEBDA_COMMAND)}']
          env:
            - {{name: PLACE, value: "${{env.ASYNCACTION_TEST_NAMESPACE}}"}}
      restartPolicy: Never
"""
"""In the form of webda's KubeRunner."""

CLIENT = "import sys; sys.path.insert(0, '/asyncaction/asyncaction.pyz')"
EXAMPLE = Path(__file__).parents[2] / "example_dags" / "runners.yaml"

ON_LAPTOP: list[dict[str, Any]] = [
    {
        "name": "processes",
        "kind": "local",
        "actions": ["echo.*"],
        "command": [sys.executable, "-c", PROGRAM, "{{ action.type }}"],
        "env": {"TABLE": "{{ action.arguments.table | default('none') }}", "RUN": "{{ run_id }}"},
    },
    {
        "name": "calls",
        "kind": "service",
        "actions": ["sum.*"],
        "callable": "jobs.routed:total",
        "queue": "default",
        "concurrency_limit": 1,
    },
    {
        "name": "own",
        "kind": "jobs.routed.TellingRunner",
        "actions": ["exits.*"],
        "where": "{{ dag.dag_id }}",
        "count": 2,
    },
    {
        "name": "shop",
        "kind": "local",
        "actions": WEBDA_ACTIONS,
        "command": WEBDA_COMMAND,
        "cwd": str(WEBDA_APPLICATION),
        "env": {"NODE_OPTIONS": "{{ webda.node_options }}"},
        "orchestrator": "AsyncService",
    },
    {"name": "sleepers", "kind": "local", "actions": ["sleep"], "command": "echo sleeps; sleep 600"},
]
IN_PODS: list[dict[str, Any]] = [
    {
        "name": "pods",
        "kind": "kubernetes",
        "actions": ["echo.*", "sum.*", "exits.*"],
        "image": os.environ.get("ASYNCACTION_TEST_IMAGE", "python:3-slim"),
        "image_pull_policy": "IfNotPresent",
        "cmds": ["python3", "-c", CLIENT + PROGRAM, "{{ action.type }}"],
        "volumes": [{"name": "client", "configMap": {"name": "asyncaction"}}],
        "volume_mounts": [{"name": "client", "mountPath": "/asyncaction"}],
        "deferrable": True,
        "defer_after": 0,
    },
    {
        "name": "shop",
        "kind": "kubernetes",
        "actions": WEBDA_ACTIONS,
        "image": os.environ.get(WEBDA_IMAGE) or "shop",
        "image_pull_policy": "IfNotPresent",
        "job_resources": WEBDA_POD,
        "env_vars": {"NODE_OPTIONS": "{{ webda.node_options }}"},
        "orchestrator": "AsyncService",
    },
]


def on_laptop() -> str:
    """Return the runners in the form of airflow.cfg, including those of the example Dag."""
    return json.dumps([*ON_LAPTOP, *yaml.safe_load(EXAMPLE.read_text())])


def in_pods() -> str:
    """Return the runners in the form of airflow.cfg."""
    return json.dumps(IN_PODS)
