# SPDX-License-Identifier: Apache-2.0
"""Public names: adding or removing one is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from airflow_asyncaction import decorators, job, operators
from airflow_asyncaction.get_provider_info import get_provider_info
from airflow_asyncaction.job import Job, current_job, open_job
from airflow_asyncaction.operators import KubeActionOperator, LocalActionOperator, ServiceActionOperator
from airflow_asyncaction.operators.base import BaseActionOperator


def test_dag_authors_have_these_operators() -> None:
    assert sorted(operators.__all__) == [
        "AsyncActionOperator",
        "KubeActionOperator",
        "LocalActionOperator",
        "RemoteActionOperator",
        "ServiceActionOperator",
    ]


def test_jobs_have_these_names() -> None:
    assert sorted(job.__all__) == [
        "File",
        "Job",
        "JobInfo",
        "JobInfoError",
        "LogLine",
        "Request",
        "ServerError",
        "ServerUnreachable",
        "Superseded",
        "Timing",
        "current_job",
        "open_job",
        "use_job",
    ]


@pytest.mark.parametrize("module", [operators, decorators, job])
def test_every_public_name_is_there(module: Any) -> None:
    assert all(hasattr(module, name) for name in module.__all__)


def test_dag_authors_have_these_decorators() -> None:
    assert sorted(decorators.__all__) == ["async_action", "async_action_local"]
    named = {entry["name"]: entry["class-name"] for entry in get_provider_info()["task-decorators"]}
    assert set(named) == {*decorators.__all__, "async_action_kubernetes"}
    for decorator, target in named.items():
        module, _, name = target.rpartition(".")
        assert name == decorator
        assert callable(getattr(import_module(module), name))


def test_dags_without_pods_do_not_load_the_client_of_kubernetes() -> None:
    modules = "airflow_asyncaction.operators, airflow_asyncaction.decorators"
    program = f"import sys, {modules}; print('kubernetes' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.split()[-1] == "False"


def test_operators_share_one_base() -> None:
    assert issubclass(LocalActionOperator, BaseActionOperator)
    assert issubclass(ServiceActionOperator, BaseActionOperator)
    assert issubclass(KubeActionOperator, BaseActionOperator)


def test_a_job_has_these_methods() -> None:
    assert sorted(name for name in vars(Job) if not name.startswith("_")) == [
        "arguments",
        "ask_to_stop",
        "close",
        "discard",
        "download",
        "download_all",
        "fail",
        "flush",
        "info",
        "is_stopping",
        "log",
        "progress",
        "result",
        "send",
        "start",
        "succeed",
        "upload",
        "upload_all",
    ]
    assert callable(open_job)
    assert callable(current_job)
