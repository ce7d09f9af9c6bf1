# SPDX-License-Identifier: Apache-2.0
"""Files from all sources as inputs, and outputs as inputs of other tasks, on the local store and on S3."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, ObjectStoragePath, task

from airflow_asyncaction.job import current_job
from airflow_asyncaction.operators import LocalActionOperator

FOLDER = Path(os.environ["ASYNCACTION_TEST_FOLDER"]) / "inputs"
RUN = f"{sys.executable} -m airflow_asyncaction.job run"
IN_A_FOLDER = 'cd "$(mktemp -d)"'

LEAVE = """
import pathlib
from airflow_asyncaction.job import current_job
job = current_job()
for name in ("a", "b", "c"):
    pathlib.Path(name).write_text(name * 1000)
    job.upload("parts", name, store="{store}", metadata={{"letter": name}})
pathlib.Path("large").write_bytes(bytes(3_000_000))
job.upload("large", "large", store="{store}")
job.succeed()
"""


@task
def one_by_one(parts: Any) -> list[dict[str, Any]]:
    return [{"part": part} for part in parts]


for store in ("default", "lake"):
    with DAG(f"files_on_{store}", schedule=None):
        leave = LocalActionOperator(
            task_id="leave",
            command=f"{IN_A_FOLDER} && {sys.executable} -c '{LEAVE.format(store=store)}'",
            output_assets={
                "large": Asset(f"large_on_{store}"),
                "parts": Asset(f"parts_on_{store}"),
                "never": Asset(f"never_on_{store}"),
            },
        )
        LocalActionOperator.partial(
            task_id="leave_mapped",
            command=f"{IN_A_FOLDER} && {sys.executable} -c '{LEAVE.format(store=store)}'",
            output_assets={"large": Asset(f"mapped_on_{store}"), "never": Asset(f"never_mapped_on_{store}")},
        ).expand(arguments=[{"n": 1}, {"n": 2}])
        files: Any = leave.output["files"]  # type: ignore[index]
        LocalActionOperator(
            task_id="have",
            inputs={"parts": files["parts"], "large": files["large"]},
            command=f"{IN_A_FOLDER} && {RUN} --input parts=parts/ --input large=large --"
            " sh -c 'cat parts/*; wc -c <large'",
        )
        LocalActionOperator.partial(
            task_id="each",
            command=f"{IN_A_FOLDER} && {RUN} --input part=part -- sh -c 'head -c 1 part; echo'",
        ).expand(inputs=one_by_one(files["parts"]))

        @task.async_action
        def in_a_callable(files: Any, store: str = store) -> list[str]:
            """Download files by the UUID of the upstream action, and upload another one."""
            job, (first, *_) = current_job(), files["parts"]
            path = job.download("parts", os.environ["ASYNCACTION_TEST_FOLDER"], index=1, of=first["action"])
            job.upload("again", path, store=store)
            return [path.read_text()[:1], first["uri"].partition(":")[0]]

        in_a_callable(files)

with DAG("files_from_everywhere", schedule=None):
    LocalActionOperator(
        task_id="have",
        inputs={
            "one": str(FOLDER / "{{ params.name }}"),
            "folder": FOLDER,
            "many": [
                FOLDER / "one.txt",
                ["s3://aws_test@elsewhere/far.txt", ObjectStoragePath("s3://aws_test@elsewhere/far.txt")],
            ],
            "prefix": "s3://aws_test@elsewhere/far",
        },
        params={"name": "one.txt"},
        command=f"{IN_A_FOLDER} && {RUN} --input one=one.txt --input folder=folder/ --input prefix=prefix/ --"
        " sh -c 'find . -type f | sort; cat one.txt prefix/deep/er.txt'",
    )
    LocalActionOperator(task_id="missing", inputs={"it": FOLDER / "nothing"}, command="echo not reached")
    LocalActionOperator(
        task_id="fails",
        command=f"{IN_A_FOLDER} && {RUN} --output trace=*.log --output-on-failure --"
        " sh -c 'echo why >a.log; echo why not >b.log; exit 3'",
    )
