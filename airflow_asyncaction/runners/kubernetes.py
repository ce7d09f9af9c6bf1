# SPDX-License-Identifier: Apache-2.0
"""Runs a job as a pod, and says how it ended in the cluster's own words."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kubernetes import client as k8s

from airflow_asyncaction.hooks.known_secrets import shared_secrets
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.masking import found_in
from airflow_asyncaction.runners.base import OnLaunched
from airflow_asyncaction.runners.pods.api import CONFLICT, ClusterRefused, GivenUp, PodApi
from airflow_asyncaction.runners.pods.container_logs import ContainerLogs
from airflow_asyncaction.runners.pods.events import PodEvents
from airflow_asyncaction.runners.pods.exit_status import (
    ACTION_LABEL,
    ENDED_PHASES,
    ON_FINISH_LABEL,
    Pod,
    is_kept,
    is_running,
)
from airflow_asyncaction.runners.pods.lifecycle import PodStory
from airflow_asyncaction.runners.pods.log import LogPosition, PodLine
from airflow_asyncaction.runners.pods.return_file import ReturnFile
from airflow_asyncaction.runners.pods.spec import add_job, job_secret
from airflow_asyncaction.runners.pods.startup import with_events, without_events

log = logging.getLogger(__name__)

_TICK_SECONDS = 10.0
_CLEAR_UP_FOR = timedelta(seconds=30)
_DELETE_FOR = timedelta(minutes=5)
_BEGINNING = LogPosition()


@dataclass(frozen=True, kw_only=True)
class PodOptions:
    """What is asked of a :class:`KubeRunner`.

    :param container: name of the base container
    :param start_timeout: in which it must be up; ``None``: it may wait for ever
    :param let_go_after: when :meth:`KubeRunner.run` returns though the pod goes on; ``None``: never
    :param secret_in_env: put the job's secret into the pod in clear
    :param get_logs: copy the log
    :param on_finish: what is done with a pod that has ended, as KubernetesPodOperator says it
    :param keep_on_kill: do not delete the pod when the job is to stop
    :param init_logs: names of init containers whose logs are copied as well, or whether all are
    """

    container: str
    stop_grace: timedelta
    start_timeout: timedelta | None
    let_go_after: timedelta | None
    secret_in_env: bool
    get_logs: bool
    on_finish: str
    keep_on_kill: bool
    init_logs: Sequence[str] | bool = ()


class _Refused(Exception):
    """There is no pod. ``exit`` says why."""

    def __init__(self, reason: str, message: str, *, is_seen: bool = True) -> None:
        super().__init__(message)
        self.exit = Exit(reason=reason, message=message, is_seen=is_seen)


class KubeRunner:
    """Runs one pod, or adopts the one that the action has.

    How it works: one list finds the pods of this task; that of this action is adopted, others are deleted.
    The pod comes before its Secret, which it owns and waits for: a crash leaves a pod at most, never a Secret
    alone. One watch tells of its life; a thread follows its log.

    What it does not do: delete a pod that has ended before :meth:`release`: the server must know the end
    first.

    :param make_pod: builds the pod; called once
    :param task_labels: labels that the pods of this task have, and no others
    :param write_line: takes each line of the container's log
    :param position: how far the log was read before
    :param on_pod: takes the pod's ``name``, ``namespace`` and ``uid`` once it is there
    :param return_file: reports the results that the container leaves in a file; ``None``: they are ignored
    """

    name = "kubernetes"
    copies_reported_logs = True

    def __init__(
        self,
        client: k8s.CoreV1Api,
        make_pod: Callable[[JobInfo], k8s.V1Pod],
        *,
        task_labels: Mapping[str, str],
        options: PodOptions,
        write_line: Callable[[PodLine], None],
        position: LogPosition = _BEGINNING,
        on_pod: Callable[[Mapping[str, str]], object] = lambda _: None,
        return_file: ReturnFile | None = None,
    ) -> None:
        self._api = PodApi(client, self._is_given_up)
        self._make_pod = make_pod
        self._task_labels = task_labels
        self._options = options
        self._on_pod = on_pod
        self._return_file = return_file
        self._info: JobInfo | None = None
        self._logs = ContainerLogs(
            self._read_log,
            write_line,
            container=options.container if options.get_logs else None,
            init_containers=options.init_logs,
            position=position,
        )
        self._story = PodStory(options.container)
        self._events = PodEvents(client)
        self._name = self._namespace = self._uid = ""
        self._is_launched = self._expects_job = self._is_orphaned = False
        self._stop_asked_at: float | None = None
        self._deletion: threading.Thread | None = None
        self._exit: Exit | None = None
        self.task_key: str | None = None
        """The task's key, to be kept beside the pod for the trigger; it is set before :meth:`run`."""

    @property
    def position(self) -> LogPosition:
        """How far the log was read."""
        return self._logs.position

    @property
    def pod(self) -> dict[str, str]:
        """The pod's ``name``, ``namespace`` and ``uid``."""
        return {"name": self._name, "namespace": self._namespace, "uid": self._uid}

    @property
    def left_init_logs(self) -> list[str] | bool:
        """The init containers whose logs are still to be copied, as :class:`PodOptions` names them."""
        wanted = self._options.init_logs
        return False if self._is_launched else wanted if isinstance(wanted, bool) else list(wanted)

    @property
    def start_by(self) -> datetime | None:
        """When the container must be up, if it must; known once there is a pod."""
        return self._story.start_by

    def expect_job(self) -> None:
        """Note that the pod was created before: another one is not to be."""
        self._expects_job = True

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit | None:
        """Create the pod, or adopt it, and return how it ended; ``None``: it goes on."""
        self._info, let_go_at = info, None
        if self._options.let_go_after is not None:
            let_go_at = time.monotonic() + self._options.let_go_after.total_seconds()
        try:
            if self._stop_asked_at is not None and not self._expects_job:
                raise GivenUp("It was not started")
            self._begin(info)
        except _Refused as refused:
            self._exit = refused.exit
            return self._exit
        except GivenUp as error:
            if not self._is_orphaned:
                self._exit = Exit(reason="Stopped", message=f"The job was asked to stop. {error}")
            return self._exit
        return self._watch(on_launched, let_go_at)

    def stop(self) -> None:
        """Delete the pod with its grace, unless it has ended, or is to be kept."""
        if self._stop_asked_at is None:
            self._stop_asked_at = time.monotonic()
        if self._uid and self._exit is None and not self._options.keep_on_kill:
            self._begin_to_delete()
        self._events.wake()

    def wait(self) -> Exit | None:
        """Return how the job ended, once it has; ``None`` if there is none."""
        if self._uid and self._exit is None:
            return self._watch(lambda _: None, None)
        if self._name and self._exit is None:  # interrupted while the pod was created
            self._begin_to_delete()
        return self._exit

    def release(self) -> None:
        """Delete the pod, unless it is kept, and its Secret. The server knows the end.

        The cluster deletes the Secret with the pod by itself, but may take minutes for it.
        """
        self._close()
        if self._exit is None or not self._uid:
            return
        try:
            if self._deletion is None and not self._keeps_pod(self._exit):
                self._delete(_CLEAR_UP_FOR)
            if not self._options.secret_in_env:
                self._api.delete_secret(self._name, self._namespace, _CLEAR_UP_FOR)
        except (ClusterRefused, GivenUp) as error:
            log.warning("The pod %s is left behind: %s", self._name, error)

    def leave_job(self) -> None:
        """Make :meth:`run` return ``None`` soon: the pod goes on, for the next try to adopt."""
        self._is_orphaned = True
        self._events.wake()

    def _begin(self, info: JobInfo) -> None:
        """Have a pod and its Secret, and watch it.

        :raises _Refused: it cannot be had
        :raises GivenUp: it is not wanted any more
        """
        options = self._options
        body = self._make_pod(info)
        add_job(
            body,
            info,
            task_key=self.task_key,
            secret_in_env=options.secret_in_env,
            on_finish=options.on_finish,
        )
        self._namespace = body.metadata.namespace
        try:
            pod, version = self._find(info)
            is_adopted = pod is not None
            if pod is None:
                pod = self._create(body, info)
                version = pod["metadata"]["resourceVersion"]
        except ClusterRefused as error:
            raise _Refused("PodRefused", str(error)) from error
        metadata = pod["metadata"]
        self._name, self._uid = metadata["name"], metadata["uid"]
        self._on_pod(self.pod)
        if options.start_timeout is not None:
            created_at = datetime.now(UTC)
            if is_adopted:
                created_at = datetime.fromisoformat(metadata["creationTimestamp"])
            self._story.start_by = created_at + options.start_timeout
        self._events.start(pod, version)
        self._give_secret(pod, info)
        self._story.look("ADDED", pod, datetime.now(UTC))
        if self._stop_asked_at is not None:
            self.stop()

    def _find(self, info: JobInfo) -> tuple[Pod | None, str]:
        """Return this action's pod and the list's version; delete the pods of earlier tries of the task.

        :raises _Refused: it should be there, and is not
        """
        selector = ",".join((*(f"{name}={value}" for name, value in self._task_labels.items()), ACTION_LABEL))
        answer = self._api.pods(self._namespace, selector, self._options.start_timeout)
        found: Pod | None = None
        for pod in answer["items"]:
            metadata = pod["metadata"]
            if metadata["labels"][ACTION_LABEL] == info.job_id:
                found = pod
            elif not _is_left_alone(pod):
                log.info("The pod %s of an earlier try is deleted", metadata["name"])
                self._api.delete_pod(
                    metadata["name"],
                    self._namespace,
                    metadata["uid"],
                    grace=self._options.stop_grace,
                    patience=_CLEAR_UP_FOR,
                )
        if found is None and self._expects_job:
            raise _Refused("PodDeleted", "The pod is gone, and nobody saw how it ended", is_seen=False)
        return found, answer["metadata"]["resourceVersion"]

    def _create(self, body: k8s.V1Pod, info: JobInfo) -> Pod:
        self._name, patience = body.metadata.name, self._options.start_timeout
        try:
            created: Pod = self._api.create_pod(body, patience)
        except ClusterRefused as refused:
            if refused.status != CONFLICT:
                raise
            created = self._api.pod(self._name, self._namespace, patience)
            if (created["metadata"].get("labels") or {}).get(ACTION_LABEL) != info.job_id:
                raise  # else the answer was lost
        return created

    def _give_secret(self, pod: Pod, info: JobInfo) -> None:
        if not self._options.secret_in_env and not is_running(pod, self._options.container):
            owner = k8s.V1Pod(metadata=k8s.V1ObjectMeta(name=self._name, uid=self._uid))
            # Not all that the task knows: who may read Secrets here may not know what the pod is not given.
            given = found_in(json.dumps(pod) + (info.arguments or ""), shared_secrets())
            secret = job_secret(owner, info, task_key=self.task_key, known=given)
            try:
                self._api.create_secret(secret, self._namespace, self._options.start_timeout)
            except ClusterRefused as refused:
                self._begin_to_delete()
                message = f"The job's secret could not be stored in the cluster: {refused}"
                raise _Refused("SecretRefused", message) from refused
        self._story.secret_is_there()

    def _watch(self, on_launched: OnLaunched, let_go_at: float | None) -> Exit | None:
        """Wait for the pod's end, or for another reason to go."""
        event: str = ""
        pod: Pod | None = None
        while True:
            ended = self._story.look(event, pod, datetime.now(UTC))
            if self._story.has_started and not self._is_launched:
                self._launched(on_launched)
            if ended is not None:
                return self._finished(ended)
            if self._is_kept_on_kill():
                self._close()
                said = "The job was asked to stop, and did not; its pod is kept"
                self._exit = Exit(reason="Stopped", message=said, tail=self._logs.tail)
                return self._exit
            lets_go = let_go_at is not None and time.monotonic() >= let_go_at
            if self._is_orphaned or (lets_go and self._stop_asked_at is None):
                self._close()
                return None
            event, pod = self._events.next(self._seconds_to_look(let_go_at))

    def _seconds_to_look(self, let_go_at: float | None) -> float:
        seconds = [_TICK_SECONDS]
        if let_go_at is not None:
            seconds.append(let_go_at - time.monotonic())
        if self.start_by is not None and not self._is_launched:
            seconds.append((self.start_by - datetime.now(UTC)).total_seconds())
        if self._stop_asked_at is not None:
            seconds.append(1.0)
        return max(0.05, min(seconds))

    def _is_kept_on_kill(self) -> bool:
        """Tell whether the job was to stop, had its time, and is left since its pod is to be kept."""
        if self._stop_asked_at is None or not self._options.keep_on_kill:
            return False
        return time.monotonic() - self._stop_asked_at >= self._options.stop_grace.total_seconds()

    def _launched(self, on_launched: OnLaunched) -> None:
        self._is_launched = True
        node = (self._story.pod or {}).get("spec", {}).get("nodeName")
        on_launched({"pod": self._name, "namespace": self._namespace, "node": node, "uid": self._uid})
        self._logs.start(self._story)

    def _finished(self, ended: Exit) -> Exit:
        if self._story.wants_events:
            ended = self._with_events(ended)
        self._logs.finish(self._story, ended)
        if self._story.is_stuck:
            self._begin_to_delete()
        is_wanted = self._stop_asked_at is None  # else a job that was to stop would seem to have succeeded
        if is_wanted and self._return_file is not None and self._info is not None:
            ended = self._return_file.take(ended, self._story.pod or {}, self._info)
        if self._story.warning is not None:
            log.warning("%s", self._story.warning)
        self._exit = self._story.with_tail(ended, self._logs.tail)
        return self._exit

    def _with_events(self, late: Exit) -> Exit:
        try:
            events = self._api.events(self._uid, self._namespace, _CLEAR_UP_FOR)
            return with_events(late, events, own_secret=self._name)
        except (ClusterRefused, GivenUp) as error:
            return without_events(late, str(error))

    def _close(self) -> None:
        self._events.close()
        self._logs.leave()

    def _read_log(self, **options: Any) -> Any:
        return self._api.client.read_namespaced_pod_log(self._name, self._namespace, **options)

    def _keeps_pod(self, ended: Exit) -> bool:
        if self._stop_asked_at is not None and self._options.keep_on_kill:
            return True
        return is_kept(self._options.on_finish, succeeded=ended.is_clean)

    def _begin_to_delete(self) -> None:
        """Delete the pod, in a thread: the cluster may be away, and the pod must not go on."""
        self._story.deleted_by_us()
        if self._deletion is None:
            self._deletion = threading.Thread(target=self._delete_soon, name="asyncaction-pod-delete")
            self._deletion.start()

    def _delete_soon(self) -> None:
        try:
            self._delete(_DELETE_FOR)
        except (ClusterRefused, GivenUp) as error:
            log.warning("The pod %s could not be deleted: %s", self._name, error)

    def _delete(self, patience: timedelta) -> None:
        # A kubelet may take a minute for the grace of a pod that never started.
        grace = timedelta(0) if self._story.is_stuck else self._options.stop_grace
        self._api.delete_pod(self._name, self._namespace, self._uid, grace=grace, patience=patience)

    def _is_given_up(self) -> bool:
        """Tell whether the pod is not wanted any more, so that there is no use in asking for it again."""
        return not self._uid and (self._is_orphaned or self._stop_asked_at is not None)


def _is_left_alone(pod: Pod) -> bool:
    """Tell whether a pod of an earlier try is to be left alone: it ends, or has ended and was to be kept."""
    metadata = pod["metadata"]
    if "deletionTimestamp" in metadata:
        return True
    ended = pod.get("status", {}).get("phase") in ENDED_PHASES
    return ended and metadata["labels"].get(ON_FINISH_LABEL) != "delete_pod"
