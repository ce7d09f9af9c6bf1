# SPDX-License-Identifier: Apache-2.0
"""Creation of an action's pod and its Secret, or adoption of those that exist."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from kubernetes import client as k8s

from airflow_asyncaction.hooks.known_secrets import shared_secrets
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.masking import found_in
from airflow_asyncaction.runners.pods.api import PodApi
from airflow_asyncaction.runners.pods.api_requests import ClusterError, ClusterRefused, PodRequests
from airflow_asyncaction.runners.pods.exit_status import (
    ACTION_LABEL,
    ENDED_PHASES,
    ON_FINISH_LABEL,
    Pod,
    has_container_started,
)
from airflow_asyncaction.runners.pods.spec import add_job, build_job_secret

log = logging.getLogger(__name__)

_DELETE_PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class PodOptions:
    """Options of a :class:`~airflow_asyncaction.runners.kubernetes.KubeRunner`.

    :param container: name of the base container
    :param start_timeout: how long the container may take to start; ``None``: without limit
    :param watch_for: when ``KubeRunner.run`` returns although the pod is still running; ``None``: never
    :param secret_in_env: put the job's secret into the pod in plain text
    :param get_logs: copy the log
    :param on_finish: what to do with a pod that has ended: an ``on_finish_action`` of KubernetesPodOperator
    :param keep_on_kill: do not delete the pod when the job must stop
    :param init_logs: names of init containers whose logs are copied too, or whether all are
    """

    container: str
    stop_grace: timedelta
    start_timeout: timedelta | None
    watch_for: timedelta | None
    secret_in_env: bool
    get_logs: bool
    on_finish: str
    keep_on_kill: bool
    init_logs: Sequence[str] | bool = ()


class PodNotCreated(Exception):
    """The pod does not exist, or cannot start without its Secret. ``exit`` says why."""

    def __init__(self, reason: str, message: str, *, is_seen: bool = True) -> None:
        super().__init__(message)
        self.exit = Exit(reason=reason, message=message, is_seen=is_seen)


class PodCreation:
    """Creates the pod of an action, unless it exists.

    :param task_key: the task's key, which is stored with the pod for the trigger
    """

    def __init__(
        self, api: PodApi, requests: PodRequests, options: PodOptions, info: JobInfo, task_key: str | None
    ) -> None:
        self._api = api
        self._requests = requests
        self._options = options
        self._info = info
        self._task_key = task_key
        self.name = ""
        """Name of the pod, once its creation was requested."""

    def ensure_pod(
        self, body: k8s.V1Pod, *, task_labels: Mapping[str, str], must_exist: bool
    ) -> tuple[Pod, str, bool]:
        """Return the pod, the resourceVersion to watch it from, and whether it existed.

        :raises PodNotCreated: there is no pod
        :raises RequestAbandoned: the pod is no longer needed
        """
        options = self._options
        add_job(
            body,
            self._info,
            task_key=self._task_key,
            secret_in_env=options.secret_in_env,
            on_finish=options.on_finish,
        )
        try:
            pod, version = self._find(task_labels)
            if pod is not None:
                return pod, version, True
            if must_exist:
                message = "The pod no longer exists, and its exit was not observed"
                raise PodNotCreated("PodDeleted", message, is_seen=False)
            pod = self._create(body)
        except ClusterError as error:
            raise PodNotCreated("PodRefused", str(error)) from error
        return pod, pod["metadata"]["resourceVersion"], False

    def ensure_secret(self, pod: Pod) -> None:
        """Create the job's Secret, unless the pod contains the secret itself, or has already started.

        :raises PodNotCreated: it could not be created, so that the pod cannot start
        :raises RequestAbandoned: the pod is no longer needed
        """
        if self._options.secret_in_env or has_container_started(pod, self._options.container):
            return
        metadata = k8s.V1ObjectMeta(name=pod["metadata"]["name"], uid=pod["metadata"]["uid"])
        # Only secrets that the pod contains: other users may be able to read Secrets of this namespace.
        known = found_in(json.dumps(pod) + (self._info.arguments or ""), shared_secrets())
        secret = build_job_secret(
            k8s.V1Pod(metadata=metadata), self._info, task_key=self._task_key, known=known
        )
        try:
            self._api.send(self._requests.create_secret(secret), patience=self._options.start_timeout)
        except ClusterError as error:
            message = f"The job's Secret could not be created: {error}"
            raise PodNotCreated("SecretRefused", message) from error

    def _find(self, task_labels: Mapping[str, str]) -> tuple[Pod | None, str]:
        """Return this action's pod and the list's version; delete the pods of earlier tries of the task."""
        selector = ",".join((*(f"{name}={value}" for name, value in task_labels.items()), ACTION_LABEL))
        answer = self._api.send(self._requests.list_pods(selector), patience=self._options.start_timeout)
        found: Pod | None = None
        grace_seconds = int(self._options.stop_grace.total_seconds())
        for pod in answer["items"]:
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            if pod["metadata"]["labels"][ACTION_LABEL] == self._info.job_id:
                found = pod
            elif not _is_finished(pod):
                log.info("Deleting pod %s of an earlier try", name)
                request = self._requests.delete_pod(name, uid, grace_seconds=grace_seconds)
                self._api.send(request, patience=_DELETE_PATIENCE)
        return found, answer["metadata"]["resourceVersion"]

    def _create(self, body: k8s.V1Pod) -> Pod:
        self.name, patience = body.metadata.name, self._options.start_timeout
        try:
            created: Pod = self._api.send(self._requests.create_pod(body), patience=patience)
        except ClusterRefused as refused:
            if refused.status != HTTPStatus.CONFLICT:
                raise
            existing: Pod | None = self._api.send(self._requests.read_pod(self.name), patience=patience)
            labels = {} if existing is None else existing["metadata"].get("labels") or {}
            if existing is None or labels.get(ACTION_LABEL) != self._info.job_id:
                raise
            return existing  # created by this request, whose response was lost
        return created


def _is_finished(pod: Pod) -> bool:
    """Return whether the pod of an earlier try may stay: it is being deleted, or has ended and is kept."""
    metadata = pod["metadata"]
    if "deletionTimestamp" in metadata:
        return True
    has_ended = pod.get("status", {}).get("phase") in ENDED_PHASES
    return has_ended and metadata["labels"].get(ON_FINISH_LABEL) != "delete_pod"
