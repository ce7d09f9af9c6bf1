# SPDX-License-Identifier: Apache-2.0
"""Commands, specified in all supported ways."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_asyncaction.operators import LocalActionOperator

JOBS = Path(__file__).with_name("jobs")
TELL = [sys.executable, str(JOBS / "tell.py")]

with DAG(
    "local_actions",
    schedule=None,
    params={"word": "hello", "cwd": str(JOBS)},
    template_searchpath=[str(Path(__file__).with_name("scripts"))],
    default_args={"stop_grace": 1},
) as dag:
    LocalActionOperator(
        task_id="templated",
        command=[*TELL, "{{ task_instance.task_id }}", "notes.sh", "{{ params.word }}.sh"],
        env={"GREETING": "{{ params.word }} you"},
        cwd="{{ params.cwd }}",
        arguments={"nested": [{"word": "{{ params.word }}"}], "script": "run.sh", "zero": 0},
    )
    LocalActionOperator(task_id="large_arguments", command=TELL, arguments={"text": "x" * 40_000})
    LocalActionOperator(task_id="template_file", command="greet.sh")
    LocalActionOperator(task_id="shell_string", command=f"{sys.executable} {TELL[1]} a 'b c' $((1 + 2)).sh")
    LocalActionOperator(
        task_id="submits", command=[sys.executable, str(JOBS / "submit.py")], completion="report"
    )
    LocalActionOperator(task_id="fails", command="echo so long; exit 3")
    LocalActionOperator(task_id="skips", command="exit 99", skip_on_exit_code=99)
    LocalActionOperator(
        task_id="skips_wrapped",
        command=[sys.executable, "-m", "airflow_asyncaction.job", "run", "--", "sh", "-c", "exit 7"],
        skip_on_exit_code=[7, 8],
    )
    LocalActionOperator(task_id="skips_not", command="exit 3", skip_on_exit_code=[7, 8])
    LocalActionOperator(task_id="no_report", command="true", require_report=True)
    LocalActionOperator(task_id="not_found", command=["no-such-command"])
    LocalActionOperator(task_id="no_folder", command="true", cwd="/no/such/folder")
    LocalActionOperator(task_id="silent", command="sleep 60", heartbeat_timeout=1)
    LocalActionOperator(task_id="not_json", command="true", arguments={"bad": {1, 2}})
    LocalActionOperator(task_id="wrong_env", command="true", env={"N": 1})  # type: ignore[dict-item]
    LocalActionOperator(
        task_id="output", command=r"printf 'caf\303\251\nbar 1\rbar 2\rbar 3\nno newline at the end'"
    )
    LocalActionOperator.partial(task_id="mapped", command=TELL).expand(arguments=[{"n": 1}, {"n": 2}])

    @task.async_action_local
    def decorated(name: str) -> list[str]:
        return [*TELL, name, "{{ params.word }}"]

    @task
    def downstream(told: dict[str, object]) -> object:
        return told["argv"]

    downstream(decorated("by name"))  # type: ignore[arg-type]

if __name__ == "__main__":
    dag.test()
