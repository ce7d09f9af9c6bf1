# SPDX-License-Identifier: Apache-2.0
"""An Airflow that lacks what the provider uses: it goes on, and all that is refused says why."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from airflow.models.trigger import Trigger

from airflow_asyncaction import airflow_internals
from airflow_asyncaction.airflow_internals import compatibility
from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.plugins.asyncaction import LazyApp
from airflow_asyncaction.protocol.tasks import ActionSpec
from tests.integration.servers import served_mounted

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
GONE = "airflow.models.trigger.Trigger.submit_event"


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delattr(Trigger, "submit_event")
    app = LazyApp()
    app.build()
    with served_mounted(app) as url:
        yield url


def test_the_log_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(Trigger, "submit_event")
    with caplog.at_level(logging.ERROR):
        LazyApp().build()
    (record,) = caplog.records
    assert "supports Airflow 3.3 and 3.4" in record.getMessage()
    assert GONE in record.getMessage()
    assert record.exc_info is None


def test_its_own_pages_are_served(url: str) -> None:
    with urllib.request.urlopen(f"{url}/dags") as answer:  # noqa: S310
        assert answer.status == 200


@pytest.mark.parametrize("path", ["/status", "/actions", "/ui/", "/job"])
def test_jobs_and_users_are_told_to_come_back(url: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/async{path}")  # noqa: S310
    assert (refused.value.code, refused.value.headers["Retry-After"]) == (503, "60")
    assert GONE.encode() in refused.value.read()


def test_tasks_fail_with_the_reason(url: str) -> None:
    with pytest.raises(ServerError, match=f"lacks {GONE}") as refused:
        TaskHook(f"{url}/async").register("ti", "nonce", ActionSpec(type="t", runner="local"))
    assert refused.value.status == 403


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("airflow.sdk.bases.operator", "TRIGGER_FAIL_REPR"),
        ("airflow.sdk._shared.secrets_masker", "_secrets_masker"),
    ],
)
def test_a_dag_file_cannot_import_operators_and_says_why(module: str, name: str) -> None:
    program = f"import {module} as m\ndel m.{name}\nimport airflow_asyncaction.operators.local"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: airflow-asyncaction")
    assert name in last
    assert "supports Airflow 3.3 and 3.4" in last


def test_the_installed_airflow_lacks_nothing() -> None:
    assert compatibility.find_missing() == []


def test_everything_that_is_imported_is_checked() -> None:
    tables = (compatibility.USED, compatibility.USED_WITH_REGIONS, compatibility.USED_WITHOUT_REGIONS)
    checked = {(module, name.split(".")[0]) for table in tables for module in table for name in table[module]}
    modules = {module for table in tables for module in table}
    unchecked = {
        f"{module}.{name}"
        for module, name in internal_imports()
        if (module, name) not in checked and f"{module}.{name}" not in modules
    }
    assert unchecked == set()


def internal_imports() -> Iterator[tuple[str, str]]:
    """Yield what the package imports of Airflow's internals, as module and name."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (wall,) = [each for each in contracts if each["id"] == "airflow-internals"]
    for path in Path(airflow_internals.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and is_internal(node.module or "", wall["public_modules"]):
                yield from ((str(node.module), alias.name) for alias in node.names)


def is_internal(module: str, public: Collection[str]) -> bool:
    return f"{module}.".startswith("airflow.") and module not in public
