# SPDX-License-Identifier: Apache-2.0
"""``/airflow/xcom/return.json`` of a container, as the pod's status contains it."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client as k8s

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.runners.pods.exit_status import read_exit, trim_pod
from airflow_asyncaction.runners.pods.return_file import ReturnFile, add_return_file

INFO = JobInfo(job_id=JobId("a"), secret_key="s", hook_url="http://nobody")


def ended_pod(message: str, *, code: int = 0, others: int = 0, asked: bool = True) -> dict[str, Any]:
    """Return a pod whose base container has this termination message."""
    container = k8s.V1Container(name="base")
    pod = k8s.V1Pod(metadata=k8s.V1ObjectMeta(name="p"), spec=k8s.V1PodSpec(containers=[container]))
    if asked:
        add_return_file(pod, "base")
        assert container.termination_message_path == "/airflow/xcom/return.json"
    terminated = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message}
    statuses = [{"name": f"s{number}", "state": {"running": {}}} for number in range(others)]
    spec: dict[str, Any] = k8s.ApiClient().sanitize_for_serialization(pod)
    status = {"containerStatuses": [*statuses, {"name": "base", "state": {"terminated": terminated}}]}
    return dict(trim_pod({**spec, "status": status}))


def taken(pod: dict[str, Any], error: ServerError | None = None) -> tuple[Exit, list[str]]:
    """Return the end of a pod, and what was reported."""
    reported: list[str] = []

    def report(info: JobInfo, results: JsonText) -> None:
        assert info is INFO
        reported.append(results)
        if error is not None:
            raise error

    exit_ = read_exit(pod, "base")
    assert exit_ is not None
    return ReturnFile("base", report).report(exit_, pod, INFO), reported


@pytest.mark.parametrize("text", ['{"rows":3}', "null", "0", '""', '[{"a":[1.5]}]', ' {"rows": 3}\n'])
def test_results_are_reported_when_the_container_ended_well(text: str) -> None:
    exit_, reported = taken(ended_pod(text))
    assert (exit_, reported) == (Exit(code=0), [text.strip().replace(": ", ":")])


@pytest.mark.parametrize(
    "pod", [ended_pod(""), ended_pod("\n"), ended_pod('{"rows": 3}', code=1), ended_pod("1", asked=False)]
)
def test_nothing_else_is_a_result(pod: dict[str, Any]) -> None:
    exit_, reported = taken(pod)
    assert (exit_, reported) == (read_exit(pod, "base"), [])


@pytest.mark.parametrize(
    ("text", "others", "said"),
    [
        ("{'rows': 3}", 0, "Expecting property name"),
        ("NaN", 0, "NaN is not JSON"),
        ("1" * 4096, 0, "4096 bytes or more"),
        ('"' + "é" * 2048, 0, "4096 bytes or more"),
        ("1" * 3072, 3, "3072 bytes or more"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_why(text: str, others: int, said: str) -> None:
    exit_, reported = taken(ended_pod(text, others=others))
    assert (exit_.code, exit_.reason, reported) == (0, "ReturnFileInvalid", [])
    assert said in (exit_.message or "")
    assert "/airflow/xcom/return.json" in (exit_.message or "")


def test_as_much_as_the_cluster_passes_on_is_read() -> None:
    text = '"' + "x" * 4093 + '"'
    assert taken(ended_pod(text)) == (Exit(code=0), [text])


def test_what_the_server_refuses_is_an_error_unless_the_job_has_reported_its_end() -> None:
    refused, _ = taken(ended_pod("1"), ServerError("too large", status=413, code="too_large"))
    assert (refused.reason, "too large" in (refused.message or "")) == ("ReturnFileInvalid", True)
    for status in (409, 410):
        exit_, _ = taken(ended_pod("1"), ServerError("ended", status=status, code="ended"))
        assert exit_ == Exit(code=0)
