# SPDX-License-Identifier: Apache-2.0
"""Kubernetes runner: runs a job as a pod, and reports how it ended as the cluster describes it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from kubernetes import client as k8s

from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.base import OnLaunched
from airflow_asyncaction.runners.pods.api import PodApi, RequestAbandoned, ResponseStream
from airflow_asyncaction.runners.pods.api_requests import ClusterError, PodRequests
from airflow_asyncaction.runners.pods.container_logs import ContainerLogs
from airflow_asyncaction.runners.pods.creation import PodCreation, PodNotCreated, PodOptions
from airflow_asyncaction.runners.pods.exit_status import should_keep_pod
from airflow_asyncaction.runners.pods.lifecycle import PodLifecycle
from airflow_asyncaction.runners.pods.log import LogPosition, PodLine
from airflow_asyncaction.runners.pods.log_selection import LogOptions
from airflow_asyncaction.runners.pods.return_file import ReturnFile
from airflow_asyncaction.runners.pods.startup import add_events, note_unreadable_events
from airflow_asyncaction.runners.pods.watch import PodChange, PodWatchThread

log = logging.getLogger(__name__)

_TICK_SECONDS = 10.0
_CLEAN_UP_PATIENCE = timedelta(seconds=30)
_DELETE_PATIENCE = timedelta(minutes=5)
_BEGINNING = LogPosition()


class KubeRunner:
    """Runs one pod, or adopts the pod of its action.

    How it works: a single list request finds the pods of the task. The pod of this action is
    adopted, others are deleted.
    The pod is created before its Secret, which it owns and waits for: a crash leaves at most a pod, never
    a Secret without its pod. A watch reports the pod's changes, and a thread follows its log.

    What it does not do: delete an ended pod on its own. The caller calls :meth:`release` once the server
    knows the end.

    :param make_pod: builds the pod; called once
    :param task_labels: labels that only the pods of this task have
    :param write_line: called with each line of the container's log
    :param position: how far the log was read before
    :param on_pod: called with the pod's ``name``, ``namespace`` and ``uid`` once it exists
    :param return_file: reports the results that the container writes to a file; ``None`` ignores the file
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
        self._api = PodApi(client, self._is_abandoned)
        self._requests = PodRequests("")
        self._make_pod = make_pod
        self._task_labels = task_labels
        self._options = options
        self._on_pod = on_pod
        self._return_file = return_file
        self._info: JobInfo | None = None
        self._lifecycle = PodLifecycle(options.container)
        log_options = LogOptions(
            container=options.container,
            get_logs=options.get_logs,
            init_containers=options.init_logs,
            position=position,
        )
        self._logs = ContainerLogs(self._open_log, write_line, log_options, self._lifecycle)
        self._watch_thread = PodWatchThread(self._api)
        self._creation: PodCreation | None = None
        self._name = self._uid = ""
        self._is_launched = self._expects_job = self._is_detached = False
        self._stop_requested_at: float | None = None
        self._deletion: threading.Thread | None = None
        self._exit: Exit | None = None
        self.task_key: str | None = None
        """The task's key, which is stored with the pod for the trigger. Set it before :meth:`run`."""

    @property
    def position(self) -> LogPosition:
        """How far the log was read."""
        return self._logs.position

    @property
    def pod(self) -> dict[str, str]:
        """The pod's ``name``, ``namespace`` and ``uid``."""
        return {"name": self._name, "namespace": self._requests.namespace, "uid": self._uid}

    @property
    def pending_init_logs(self) -> list[str] | bool:
        """The init containers whose logs must still be copied, as in :class:`PodOptions`."""
        requested = self._options.init_logs
        return False if self._is_launched else requested if isinstance(requested, bool) else list(requested)

    @property
    def start_by(self) -> datetime | None:
        """Deadline for the container's start, if there is one; known once the pod exists."""
        return self._lifecycle.start_by

    def expect_job(self) -> None:
        """Record that the pod was already created, so that :meth:`run` creates no other."""
        self._expects_job = True

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit | None:
        """Create or adopt the pod, and return how it ended; ``None`` if it is still running."""
        self._info, watch_until = info, None
        if self._options.watch_for is not None:
            watch_until = time.monotonic() + self._options.watch_for.total_seconds()
        try:
            if self._stop_requested_at is not None and not self._expects_job:
                raise RequestAbandoned("It was not started")
            self._begin(info)
        except PodNotCreated as error:
            self._exit = error.exit
            return self._exit
        except RequestAbandoned as error:
            if not self._is_detached:
                self._exit = Exit(reason="Stopped", message=f"The job was asked to stop. {error}")
            return self._exit
        return self._watch(on_launched, watch_until)

    def stop(self) -> None:
        """Delete the pod with its grace period, unless it has ended or must be kept."""
        if self._stop_requested_at is None:
            self._stop_requested_at = time.monotonic()
        if self._uid and self._exit is None and not self._options.keep_on_kill:
            self._start_deletion()
        self._watch_thread.wake()

    def wait(self) -> Exit | None:
        """Wait until the job has ended, and return its exit; ``None`` if it was never started."""
        if self._uid and self._exit is None:
            return self._watch(lambda _: None, None)
        if self._creation is not None and self._creation.name and self._exit is None:
            self._name = self._creation.name  # interrupted while the pod was being created
            self._start_deletion()
        return self._exit

    def release(self) -> None:
        """Delete the Secret, and the pod unless it must be kept. Call this once the server knows the end.

        The cluster deletes the Secret together with the pod, but that may take minutes.
        """
        self._close()
        if self._exit is None or not self._uid:
            return
        try:
            if self._deletion is None and not self._is_kept(self._exit):
                self._delete(_CLEAN_UP_PATIENCE)
            if not self._options.secret_in_env:
                self._api.send(self._requests.delete_secret(self._name), patience=_CLEAN_UP_PATIENCE)
        except (ClusterError, RequestAbandoned) as error:
            log.warning("Pod %s or its Secret could not be deleted: %s", self._name, error)

    def detach(self) -> None:
        """Make :meth:`run` return ``None`` soon. The pod keeps running, and the next try adopts it."""
        self._is_detached = True
        self._watch_thread.wake()

    def _begin(self, info: JobInfo) -> None:
        """Create or adopt the pod and its Secret, and watch the pod.

        :raises PodNotCreated: the pod or its Secret could not be created
        :raises RequestAbandoned: the pod is no longer needed
        """
        options = self._options
        body = self._make_pod(info)
        self._requests = PodRequests(body.metadata.namespace)
        creation = self._creation = PodCreation(self._api, self._requests, options, info, self.task_key)
        pod, version, is_adopted = creation.ensure_pod(
            body, task_labels=self._task_labels, must_exist=self._expects_job
        )
        metadata = pod["metadata"]
        self._name, self._uid = metadata["name"], metadata["uid"]
        self._on_pod(self.pod)
        if options.start_timeout is not None:
            created_at = datetime.now(UTC)
            if is_adopted:
                created_at = datetime.fromisoformat(metadata["creationTimestamp"])
            self._lifecycle.start_by = created_at + options.start_timeout
        self._watch_thread.start(pod, version)
        try:
            creation.ensure_secret(pod)
        except PodNotCreated:
            self._start_deletion()
            raise
        self._lifecycle.note_secret()
        self._lifecycle.observe("ADDED", pod, datetime.now(UTC))
        if self._stop_requested_at is not None:
            self.stop()

    def _watch(self, on_launched: OnLaunched, watch_until: float | None) -> Exit | None:
        """Watch the pod until it has ended, and return its exit; ``None`` if it is left running."""
        change: PodChange | None = None
        while True:
            event, pod = ("", None) if change is None else (change.kind, change.pod)
            exit_ = self._lifecycle.observe(event, pod, datetime.now(UTC))
            if self._lifecycle.has_started and not self._is_launched:
                self._report_launch(on_launched)
            if exit_ is not None:
                return self._finish(exit_)
            if self._is_kept_running():
                self._close()
                message = "The job was asked to stop, but is still running. Its pod was kept"
                self._exit = Exit(reason="Stopped", message=message, tail=self._logs.tail)
                return self._exit
            is_time_up = watch_until is not None and time.monotonic() >= watch_until
            if self._is_detached or (is_time_up and self._stop_requested_at is None):
                self._close()
                return None
            change = self._watch_thread.next_change(self._wait_seconds(watch_until))

    def _wait_seconds(self, watch_until: float | None) -> float:
        seconds = [_TICK_SECONDS]
        if watch_until is not None:
            seconds.append(watch_until - time.monotonic())
        if self.start_by is not None and not self._is_launched:
            seconds.append((self.start_by - datetime.now(UTC)).total_seconds())
        if self._stop_requested_at is not None:
            seconds.append(1.0)
        return max(0.05, min(seconds))

    def _is_kept_running(self) -> bool:
        """Return whether a pod that is still running after a stop and its grace period must be kept."""
        if self._stop_requested_at is None or not self._options.keep_on_kill:
            return False
        return time.monotonic() - self._stop_requested_at >= self._options.stop_grace.total_seconds()

    def _report_launch(self, on_launched: OnLaunched) -> None:
        self._is_launched = True
        node = (self._lifecycle.pod or {}).get("spec", {}).get("nodeName")
        namespace = self._requests.namespace
        on_launched({"pod": self._name, "namespace": namespace, "node": node, "uid": self._uid})
        self._logs.start()

    def _finish(self, exit_: Exit) -> Exit:
        if self._lifecycle.needs_events:
            exit_ = self._add_events(exit_)
        self._logs.finish(exit_)
        if self._lifecycle.is_stuck:
            self._start_deletion()
        # A job that was asked to stop must not seem to have succeeded.
        if self._stop_requested_at is None and self._return_file is not None and self._info is not None:
            exit_ = self._return_file.report(exit_, self._lifecycle.pod or {}, self._info)
        if self._lifecycle.warning is not None:
            log.warning("%s", self._lifecycle.warning)
        self._exit = self._lifecycle.add_tail(exit_, self._logs.tail)
        return self._exit

    def _add_events(self, exit_: Exit) -> Exit:
        try:
            answer = self._api.send(self._requests.list_events(self._uid), patience=_CLEAN_UP_PATIENCE)
            return add_events(exit_, answer["items"], own_secret=self._name)
        except (ClusterError, RequestAbandoned) as error:
            return note_unreadable_events(exit_, str(error))

    def _close(self) -> None:
        self._watch_thread.close()
        self._logs.detach()

    def _open_log(self, **options: Any) -> ResponseStream:
        return self._api.open_stream(self._requests.read_log(self._name, **options))

    def _is_kept(self, exit_: Exit) -> bool:
        if self._stop_requested_at is not None and self._options.keep_on_kill:
            return True
        return should_keep_pod(self._options.on_finish, succeeded=exit_.is_clean)

    def _start_deletion(self) -> None:
        """Delete the pod in a thread, with retries: the cluster may be unavailable."""
        self._lifecycle.expect_deletion()
        if self._deletion is None:
            self._deletion = threading.Thread(target=self._delete_stopped, name="asyncaction-pod-delete")
            self._deletion.start()

    def _delete_stopped(self) -> None:
        try:
            self._delete(_DELETE_PATIENCE)
        except (ClusterError, RequestAbandoned) as error:
            log.warning("Pod %s could not be deleted: %s", self._name, error)

    def _delete(self, patience: timedelta) -> None:
        # With a grace period, a kubelet may take a minute to delete a pod whose container never started.
        grace_seconds = 0 if self._lifecycle.is_stuck else int(self._options.stop_grace.total_seconds())
        request = self._requests.delete_pod(self._name, self._uid, grace_seconds=grace_seconds)
        self._api.send(request, patience=patience)

    def _is_abandoned(self) -> bool:
        """Return whether no pod exists yet, and none is needed any more."""
        return not self._uid and (self._is_detached or self._stop_requested_at is not None)
