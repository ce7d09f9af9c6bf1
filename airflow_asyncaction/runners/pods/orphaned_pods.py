# SPDX-License-Identifier: Apache-2.0
"""Pods that are there although their action is over: nobody was left to delete them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.runners.pods.exit_status import ACTION_LABEL, ENDED_PHASES, ON_FINISH_LABEL, is_kept

_PAGE = 500


@dataclass(frozen=True)
class JobPod:
    """A pod of an action.

    :param on_finish: what is to be done with it at its end, as KubernetesPodOperator says it
    """

    action_id: JobId
    name: str
    namespace: str
    phase: str
    on_finish: str

    @property
    def is_left(self) -> bool:
        """Whether it is to be deleted, given that its action is over."""
        return self.phase not in ENDED_PHASES or not is_kept(
            self.on_finish, succeeded=self.phase == "Succeeded"
        )


def job_pods(core: k8s.CoreV1Api, namespace: str) -> Iterator[JobPod]:
    """Yield all pods of actions in a namespace."""
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
    _is_there(lambda: core.delete_namespaced_pod(pod.name, pod.namespace))


def has_secret(core: k8s.CoreV1Api, pod: JobPod) -> bool:
    """Tell whether the job's Secret is there."""
    return _is_there(lambda: core.read_namespaced_secret(pod.name, pod.namespace))


def delete_secret(core: k8s.CoreV1Api, pod: JobPod) -> None:
    """Delete the job's Secret: the cluster does it with the pod, but may take minutes. It may be gone."""
    _is_there(lambda: core.delete_namespaced_secret(pod.name, pod.namespace))


def _is_there(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except ApiException as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return False
    return True
