# SPDX-License-Identifier: Apache-2.0
"""Orphaned pods: pods whose action has ended, but which nothing was left to delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.runners.pods.exit_status import (
    ACTION_LABEL,
    ENDED_PHASES,
    ON_FINISH_LABEL,
    should_keep_pod,
)

_PAGE = 500


@dataclass(frozen=True)
class JobPod:
    """A pod of an action.

    :param on_finish: what to do with it at its end: an ``on_finish_action`` of KubernetesPodOperator
    """

    action_id: JobId
    name: str
    namespace: str
    phase: str
    on_finish: str

    @property
    def should_be_deleted(self) -> bool:
        """Whether it should be deleted, if its action has ended."""
        return self.phase not in ENDED_PHASES or not should_keep_pod(
            self.on_finish, succeeded=self.phase == "Succeeded"
        )


def list_job_pods(core: k8s.CoreV1Api, namespace: str) -> Iterator[JobPod]:
    """Yield the pods of actions in a namespace."""
    token: str | None = None
    while True:
        page = core.list_namespaced_pod(namespace, label_selector=ACTION_LABEL, limit=_PAGE, _continue=token)
        for pod in page.items:
            labels = pod.metadata.labels
            yield JobPod(
                action_id=JobId(labels[ACTION_LABEL]),
                name=pod.metadata.name,
                namespace=namespace,
                phase=pod.status.phase,
                on_finish=labels.get(ON_FINISH_LABEL, "delete_pod"),
            )
        token = page.metadata._continue
        if not token:
            return


def delete_pod(core: k8s.CoreV1Api, pod: JobPod) -> None:
    """Delete a pod. It may be gone."""
    _exists(lambda: core.delete_namespaced_pod(pod.name, pod.namespace))


def has_secret(core: k8s.CoreV1Api, pod: JobPod) -> bool:
    """Tell whether the job's Secret exists."""
    return _exists(lambda: core.read_namespaced_secret(pod.name, pod.namespace))


def delete_secret(core: k8s.CoreV1Api, pod: JobPod) -> None:
    """Delete the job's Secret, which may be gone. The cluster deletes it with the pod, but within minutes."""
    _exists(lambda: core.delete_namespaced_secret(pod.name, pod.namespace))


def _exists(send: Callable[[], object]) -> bool:
    try:
        send()
    except ApiException as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return False
    return True
