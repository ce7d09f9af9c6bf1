# SPDX-License-Identifier: Apache-2.0
"""Example jobs in other languages, run unchanged against a real protocol server."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.testing import JobServer, TestedJob
from tests.requirements import need

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "example_dags" / "jobs"


def run(job: TestedJob, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **job.environ}, capture_output=True, text=True, timeout=60, check=True
    )


def test_the_shell_job_reports(tested: TestedJob) -> None:
    need("curl", "openssl")
    run(tested, "sh", str(JOBS / "report.sh"))
    assert tested.action.state is State.SUCCESS
    assert json.loads(tested.action.results or "") == {"rows": 1200, "from": "sh"}
    assert [line.message for line in tested.logs] == [f"loaded part {number} of 5" for number in range(1, 6)]
    assert json.loads(tested.action.status_details or "") == {"progress": 100, "message": "loaded"}


def test_the_mapped_shell_job_reads_its_arguments(server: JobServer) -> None:
    need("curl", "openssl")
    job = server.new_job({"number": 21})
    assert run(job, "sh", str(JOBS / "double.sh")).stdout == "doubling 21\n"
    assert json.loads(job.action.results or "") == 42


@pytest.mark.parametrize("fault", ["none", "500", "599", "lost answer", "clock"])
def test_the_node_job_reports(server: JobServer, fault: str) -> None:
    need("node")
    job = server.new_job({"words": ["one", "three"]})
    if fault == "lost answer":
        server.lose_responses(1)
    elif fault == "clock":
        server.clock_offset = timedelta(minutes=10)
    elif fault != "none":
        server.fail(2, int(fault))
    run(job, "node", str(JOBS / "report.mjs"))
    assert job.action.state is State.SUCCESS
    assert json.loads(job.action.results or "") == {"words": 2, "letters": 8}
    assert [line.message for line in job.logs] == ["counted one", "counted three"]


@pytest.mark.parametrize("page", ["<html>Sign in</html>", "[]", ""])
@pytest.mark.parametrize(
    ("script", "arguments"),
    [(JOBS / "report.mjs", {"words": []}), (ROOT / "docs/quickstart/load.mjs", {"table": "orders"})],
    ids=["report.mjs", "load.mjs"],
)
def test_a_captive_portal_is_waited_for(
    server: JobServer, script: Path, arguments: dict[str, object], page: str
) -> None:
    need("node")
    job = server.new_job(arguments)
    server.fail(2, 200, page=page)
    run(job, "node", str(script))
    assert job.action.state is State.SUCCESS


def test_the_node_job_says_why_it_was_refused(server: JobServer) -> None:
    need("node")
    job = server.new_job({"words": []})
    server.fail(1, 413, "too_large")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(job, "node", str(JOBS / "report.mjs"))
    assert 'returned 413: {"error": "too_large"' in caught.value.stderr
    assert job.info.secret_key not in caught.value.stderr
