# SPDX-License-Identifier: Apache-2.0
"""Results that a program leaves in ``/airflow/xcom/return.json``, as for KubernetesPodOperator.

The file is the container's termination message: the kubelet makes it before the container starts, and the
pod's status has what was written to it. No sidecar must be waited for, asked by ``exec``, or killed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from kubernetes import client as k8s

from airflow_asyncaction.exceptions import ReturnFileInvalid, ServerError
from airflow_asyncaction.protocol import strict_json
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.pods.exit_status import Pod

log = logging.getLogger(__name__)

RETURN_FILE = "/airflow/xcom/return.json"

_LABEL = "asyncaction/return-file"
"""Label of pods whose container may leave results there, by which whoever watches them knows."""

_MOST_BYTES = 4096
_MOST_BYTES_OF_POD = 3 * _MOST_BYTES  # which all of its containers share
_ENDED_BEFORE = (HTTPStatus.CONFLICT, HTTPStatus.GONE)
_DEFAULT_PATH = "/dev/termination-log"


def add_return_file(pod: k8s.V1Pod, container: str) -> None:
    """Let the cluster take what a container writes to :data:`RETURN_FILE`.

    :param container: name of the base container
    :raises ValueError: its ``terminationMessagePath`` is another one
    """
    for each in pod.spec.containers:
        if each.name == container:
            if each.termination_message_path not in (None, _DEFAULT_PATH, RETURN_FILE):
                raise ValueError(
                    f"do_xcom_push=True makes the container's terminationMessagePath {RETURN_FILE}, but it is"
                    f" {each.termination_message_path} already: leave either out"
                )
            each.termination_message_path = RETURN_FILE
    pod.metadata.labels = {**(pod.metadata.labels or {}), _LABEL: "true"}


def returned(exit_: Exit, pod: Pod, container: str) -> tuple[Exit, strict_json.JsonText | None]:
    """Return how a pod ended, and the results that its container left, if it ended well and left some.

    A file that cannot be read makes its end the error :class:`ReturnFileInvalid`.
    """
    labels = (pod.get("metadata") or {}).get("labels") or {}
    if not exit_.is_clean or _LABEL not in labels:
        return exit_, None
    text, limit_bytes = _message(pod, container)
    if not text.strip():
        log.info("%s is empty: it adds no results", RETURN_FILE)
        return exit_, None
    exit_ = replace(exit_, message=None) if exit_.message == text.strip() else exit_
    if len(text.encode()) >= limit_bytes:
        said = f"it has {limit_bytes} bytes or more, where the cluster cuts it off"
        return unreadable(exit_, f"{said}. Report larger results with the job client"), None
    try:
        return exit_, strict_json.dumps(strict_json.loads(text))
    except strict_json.NotJson as error:
        return unreadable(exit_, str(error)), None


class ReturnFile:
    """Reports what a container left in :data:`RETURN_FILE`, in the name of its job.

    :param container: name of the base container
    :param report: sends results to the server
    """

    def __init__(self, container: str, report: Callable[[JobInfo, strict_json.JsonText], object]) -> None:
        self._container = container
        self._report = report

    def take(self, exit_: Exit, pod: Pod, info: JobInfo) -> Exit:
        """Report the results of a pod that has ended, and return its end, which they may change."""
        exit_, results = returned(exit_, pod, self._container)
        if results is None:
            return exit_
        try:
            self._report(info, results)
        except ServerError as error:
            return refused(exit_, error)
        return exit_


def refused(exit_: Exit, error: ServerError) -> Exit:
    """Return the end of a job whose results the server has refused."""
    if error.status in _ENDED_BEFORE:
        log.warning("%s is not reported, since the action has ended before: %s", RETURN_FILE, error)
        return exit_
    return unreadable(exit_, str(error))


def unreadable(exit_: Exit, why: str) -> Exit:
    """Return the end of a job whose results cannot be had."""
    return replace(
        exit_,
        reason=ReturnFileInvalid.__name__,
        message=f"The job exited with code 0, but {RETURN_FILE} cannot become its XCom: {why}",
    )


def _message(pod: Pod, container: str) -> tuple[str, int]:
    """Return a container's termination message, and the length from which the cluster cuts it."""
    status = pod.get("status") or {}
    containers: list[Mapping[str, Any]] = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    limit_bytes = min(_MOST_BYTES, _MOST_BYTES_OF_POD // max(1, len(containers)))
    for each in containers:
        if each.get("name") == container:
            for kind in ("state", "lastState"):
                terminated = (each.get(kind) or {}).get("terminated")
                if terminated:
                    return str(terminated.get("message") or ""), limit_bytes
    return "", limit_bytes
