# SPDX-License-Identifier: Apache-2.0
"""Checks of a pod task before it runs: their errors name what to configure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from airflow_asyncaction import settings
from airflow_asyncaction.exceptions import ClusterNotConfigured
from airflow_asyncaction.operators import KubeActionOperator


def operator(**kwargs: Any) -> KubeActionOperator:
    return KubeActionOperator(**{"task_id": "job", "image": "busybox", "namespace": "jobs", **kwargs})


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure no cluster, and a base URL that pods can reach."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.setenv("AIRFLOW__ASYNCACTION__BASE_URL", "http://10.0.0.1:8080/async")


def connection(monkeypatch: pytest.MonkeyPatch, conn_id: str, **extra: Any) -> None:
    value = json.dumps({"conn_type": "kubernetes", "extra": extra})
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", value)


def test_no_way_to_a_cluster_lists_the_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection(monkeypatch, "wrong", kube_config_path=str(tmp_path / "nothing"))
    connection(monkeypatch, "both", kube_config_path="a", in_cluster=True)
    given: list[tuple[dict[str, Any], str]] = [
        ({"kubernetes_conn_id": None}, "Invalid kube-config file"),
        ({"config_file": str(tmp_path / "nothing")}, "nothing"),
        ({"in_cluster": True}, "Service host/port is not set"),
        ({"kubernetes_conn_id": "wrong"}, "conn_id='wrong'"),
        ({"kubernetes_conn_id": "both"}, "mutually exclusive"),
    ]
    for options, said in given:
        with pytest.raises(ClusterNotConfigured) as caught:
            operator(**options).make_runner({})
        text = str(caught.value)
        assert said in text
        for way in ("kubernetes_conn_id", "config_file", "in_cluster=True", "first-pod.md"):
            assert way in text


LOCAL = ("http://localhost:8080/async", "http://127.0.0.1:8080/async", "http://[::1]:8080/async")
MUST_REPORT: list[dict[str, Any]] = [
    {"require_report": True},
    {"completion": "report"},
    {"heartbeat_timeout": 60},
    {"start_timeout": 60},
]


@pytest.mark.parametrize("url", LOCAL)
@pytest.mark.parametrize("options", MUST_REPORT, ids=lambda options: next(iter(options)))
def test_a_pod_that_must_report_needs_another_address(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], url: str
) -> None:
    monkeypatch.setenv("AIRFLOW__ASYNCACTION__BASE_URL", url)
    with pytest.raises(ValueError, match=r"Set \[asyncaction\] base_url to the URL at which") as caught:
        operator(**options).make_runner({})
    assert url in str(caught.value)
    with pytest.raises(ClusterNotConfigured):  # the address is right in the network of the machine
        operator(**options, hostnetwork=True).make_runner({})


def test_a_pod_that_need_not_report_is_warned_about_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__ASYNCACTION__BASE_URL", LOCAL[0])
    with capture_logs() as logs, pytest.raises(ClusterNotConfigured):
        operator().make_runner({})
    (warning,) = (entry for entry in logs if entry["log_level"] == "warning")
    assert f"Pods cannot reach {LOCAL[0]}" in str(warning)


def test_another_address_causes_no_warning() -> None:
    with capture_logs() as logs, pytest.raises(ClusterNotConfigured):
        operator(require_report=True).make_runner({})
    assert not [entry for entry in logs if entry["log_level"] == "warning"]


@pytest.mark.parametrize("value", ["http://a", "a:80", "a/b", "a b", "user@a"])
def test_the_host_for_tests_is_a_host(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AIRFLOW__ASYNCACTION__TEST_HOST", value)
    settings.load.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"test_host is .* it must be only a host name or an IP address"):
            settings.load()
    finally:
        monkeypatch.undo()
        settings.load.cache_clear()
