# SPDX-License-Identifier: Apache-2.0
"""Orphaned pods: pods whose action has ended, but which neither worker nor triggerer has deleted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.runners.pods.api import PodApi
from airflow_asyncaction.runners.pods.api_requests import PodRequests
from airflow_asyncaction.runners.pods.exit_status import (
    ACTION_LABEL,
    ENDED_PHASES,
    ON_FINISH_LABEL,
    Pod,
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
    uid: str
    phase: str
    on_finish: str

    @property
    def should_be_deleted(self) -> bool:
        """Whether to delete the pod if its action has ended."""
        return self.phase not in ENDED_PHASES or not should_keep_pod(
            self.on_finish, succeeded=self.phase == "Succeeded"
        )


def parse_job_pod(pod: Pod) -> JobPod:
    """Return the fields of an action's pod that the clean-up needs."""
    metadata, labels = pod["metadata"], pod["metadata"]["labels"]
    return JobPod(
        action_id=JobId(labels[ACTION_LABEL]),
        name=metadata["name"],
        uid=metadata["uid"],
        phase=pod["status"].get("phase", ""),
        on_finish=labels.get(ON_FINISH_LABEL, "delete_pod"),
    )


def list_job_pods(api: PodApi, requests: PodRequests) -> Iterator[JobPod]:
    """Yield the pods of actions in a namespace.

    :raises ClusterError: they cannot be listed
    """
    page: str | None = None
    while page is None or page:
        answer = api.send_once(requests.list_pods(ACTION_LABEL, limit=_PAGE, page=page))
        yield from map(parse_job_pod, answer["items"])
        page = answer["metadata"].get("continue") or ""
