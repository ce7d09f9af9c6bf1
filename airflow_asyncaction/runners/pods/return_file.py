# SPDX-License-Identifier: Apache-2.0
"""Return file: results that a program writes to ``/airflow/xcom/return.json``, as for KubernetesPodOperator.

The file is the container's termination message. The kubelet creates it before the container starts, and puts
its content into the pod's status. So there is no sidecar to wait for, to read with ``exec``, or to kill.
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
"""Label of pods whose container may write results there."""

_MAX_BYTES = 4096
_MAX_POD_BYTES = 3 * _MAX_BYTES  # shared by all containers of the pod
_ENDED_BEFORE = (HTTPStatus.CONFLICT, HTTPStatus.GONE)
_DEFAULT_PATH = "/dev/termination-log"


def add_return_file(pod: k8s.V1Pod, container: str) -> None:
    """Make :data:`RETURN_FILE` the termination message of a container.

    :param container: name of the base container
    :raises ValueError: it has another ``terminationMessagePath``
    """
    for each in pod.spec.containers:
        if each.name == container:
            if each.termination_message_path not in (None, _DEFAULT_PATH, RETURN_FILE):
                raise ValueError(
                    f"do_xcom_push=True needs the container's terminationMessagePath {RETURN_FILE}, but the"
                    f" pod sets it to {each.termination_message_path}. Remove one of the two"
                )
            each.termination_message_path = RETURN_FILE
    pod.metadata.labels = {**(pod.metadata.labels or {}), _LABEL: "true"}


def read_return_file(exit_: Exit, pod: Pod, container: str) -> tuple[Exit, strict_json.JsonText | None]:
    """Return a pod's exit, and the results in its return file if it succeeded and wrote any.

    If the file is invalid, the exit becomes the error :class:`ReturnFileInvalid`.
    """
    labels = (pod.get("metadata") or {}).get("labels") or {}
    if not exit_.is_clean or _LABEL not in labels:
        return exit_, None
    text, limit_bytes = _read_message(pod, container)
    if not text.strip():
        log.info("%s is empty: no results are read from it", RETURN_FILE)
        return exit_, None
    exit_ = replace(exit_, message=None) if exit_.message == text.strip() else exit_
    if len(text.encode()) >= limit_bytes:
        reason = f"it has {limit_bytes} bytes or more, and the cluster truncates it at that size"
        return _mark_invalid(exit_, f"{reason}. Report larger results with the job client"), None
    try:
        return exit_, strict_json.dumps(strict_json.loads(text))
    except strict_json.NotJson as error:
        return _mark_invalid(exit_, str(error)), None


class ReturnFile:
    """Reports the results in :data:`RETURN_FILE` on behalf of the job.

    :param container: name of the base container
    :param report: sends results to the server
    """

    def __init__(self, container: str, report: Callable[[JobInfo, strict_json.JsonText], object]) -> None:
        self._container = container
        self._report = report

    def report(self, exit_: Exit, pod: Pod, info: JobInfo) -> Exit:
        """Report the results of a pod that has ended. Return its exit, or an error if the file is invalid."""
        exit_, results = read_return_file(exit_, pod, self._container)
        if results is None:
            return exit_
        try:
            self._report(info, results)
        except ServerError as error:
            return explain_refused_results(exit_, error)
        return exit_


def explain_refused_results(exit_: Exit, error: ServerError) -> Exit:
    """Return the exit of a job whose results the server refused."""
    if error.status in _ENDED_BEFORE:
        log.warning("%s is ignored, because the action has already ended: %s", RETURN_FILE, error)
        return exit_
    return _mark_invalid(exit_, str(error))


def _mark_invalid(exit_: Exit, why: str) -> Exit:
    return replace(
        exit_,
        reason=ReturnFileInvalid.__name__,
        message=f"The job exited with code 0, but {RETURN_FILE} cannot be used as its XCom: {why}",
    )


def _read_message(pod: Pod, container: str) -> tuple[str, int]:
    """Return a container's termination message, and the length at which the cluster truncates it."""
    status = pod.get("status") or {}
    containers: list[Mapping[str, Any]] = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    limit_bytes = min(_MAX_BYTES, _MAX_POD_BYTES // max(1, len(containers)))
    for each in containers:
        if each.get("name") == container:
            for kind in ("state", "lastState"):
                terminated = (each.get(kind) or {}).get("terminated")
                if terminated:
                    return str(terminated.get("message") or ""), limit_bytes
    return "", limit_bytes
