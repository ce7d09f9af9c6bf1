# SPDX-License-Identifier: Apache-2.0
"""Example Dag of routed actions, run by ``dag.test()`` with its documented runners."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.airflow_home import DagRun, Home
from tests.shared import SharedServices

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "example_dags"
PROGRAM = f"""
import os, runpy, sys
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = {str(EXAMPLES)!r}
os.environ["AIRFLOW__ASYNCACTION__RUNNERS"] = {str(EXAMPLES / "runners.yaml")!r}
sys.path.insert(0, {str(EXAMPLES)!r})
runpy.run_path({str(EXAMPLES / "routed.py")!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def routed(shared: SharedServices, tmp_path_factory: pytest.TempPathFactory) -> DagRun:
    home = Home(tmp_path_factory.mktemp("home"))
    shared.migrated_sqlite(home.database)
    return home.run_dag("routed", "-c", PROGRAM)


def test_all_actions_end_well(routed: DagRun) -> None:
    ends = {task: routed.end(task) for task in routed.actions}
    assert ends == dict.fromkeys(("load[0]", "load[1]", "total", "archive"), ("SUCCESS", None)), routed.log
    assert set(routed.states.values()) == {"success"}


def test_a_process_a_call_and_a_runner_of_ones_own_did_it(routed: DagRun) -> None:
    assert [routed.said(f"loading {table}") for table in ("customers", "orders")] == [1, 1]
    assert routed.result("total") == 42
    assert routed.said("niceness 19") == 1
