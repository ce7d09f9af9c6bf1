# SPDX-License-Identifier: Apache-2.0
"""Run the commands of docs/kubernetes/first-pod.md block by block, in one shell, on a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dev.cluster import Cluster
from tests.integration.airflow_home import Home
from tests.requirements import need
from tests.shared import SharedServices

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "kubernetes" / "first-pod.md"
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections() -> dict[str, str]:
    """Return the shell commands of the page by heading; those before the first heading under ``""``."""
    text = PAGE.read_text()
    parts = {"": text.partition("\n## ")[0], **dict(SECTION.findall(text))}
    return {heading: "".join(BLOCK.findall(part)) for heading, part in parts.items()}


def adapted(commands: str, given: dict[str, str]) -> str:
    """Replace what a reader has to replace, and paths that a test must not write to."""
    for own, value in given.items():
        commands = commands.replace(own, value)
    return commands


def test_the_page_leads_to_a_pod_that_reports(kube: Cluster, shared: SharedServices, tmp_path: Path) -> None:
    need("kubectl")
    home = Home(tmp_path / "airflow")
    home.folder.mkdir()
    shared.migrated_sqlite(home.database)
    namespace = f"{kube.namespace}-guide"
    given = {
        "NAMESPACE=first-pod": f"NAMESPACE={namespace}",
        "TEST_HOST=172.18.0.1": f"TEST_HOST={kube.host}",
        "make dist/asyncaction.pyz": f'"{sys.executable}" -m dev.zipapp dist/asyncaction.pyz',
        "dist/asyncaction.pyz": f"{tmp_path}/asyncaction.pyz",
        "$PWD/first-pod.kubeconfig": f"{tmp_path}/first-pod.kubeconfig",
        "> first-pod.kubeconfig": f"> {tmp_path}/first-pod.kubeconfig",
        "rm first-pod.kubeconfig": f"rm {tmp_path}/first-pod.kubeconfig",
        "cp docs/kubernetes": f"sed 's|python:3-slim|{kube.image}|' docs/kubernetes",
        "first_pod.py ~/airflow/dags/": "first_pod.py > ~/airflow/dags/first_pod.py",
        'delete namespace "$NAMESPACE"': 'delete namespace "$NAMESPACE" --wait=false',
    }
    steps = {name: adapted(commands, given) for name, commands in sections().items()}
    assert list(steps)[:6] == [
        "",
        "1. Grant permissions",
        "2. Create a connection",
        "3. Provide the job client",
        "4. Set the address",
        "5. Run the Dag",
    ]
    script = "".join(list(steps.values())[:6])
    bins = Path(sys.executable).parent
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "HOME": str(tmp_path),
        "AIRFLOW_HOME": str(home.folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "KUBECONFIG": str(kube.admin_kubeconfig),
        "PATH": f"{bins}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }

    def run(commands: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-eu", "-c", commands], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )

    try:
        done = run(script)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        removed = run(steps[""] + steps["Clean up"])
    said = done.stdout + done.stderr
    for line in ("hello from", "progress 50%: halfway", "loading orders"):
        assert line in said, said
    assert said.count("ended as SUCCESS") == 2, said
    assert removed.returncode == 0, removed.stderr
