# SPDX-License-Identifier: Apache-2.0
"""Lifecycle of one pod: turns the observed states of a pod into its exit. No I/O, and no clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.pods.exit_status import (
    Pod,
    add_tail,
    find_disruption,
    find_failed_init_container,
    find_warning,
    get_message,
    get_termination_message,
    has_container_started,
    read_container_exit,
    read_exit,
    trim_pod,
)
from airflow_asyncaction.runners.pods.startup import (
    UNCLASSIFIED,
    describe_waiting,
    find_running_init_container,
    find_start_failure,
    list_waiting_containers,
    may_recover,
)

_SECRET_SETTLE = timedelta(minutes=3)
"""How long the node may report the job's Secret as missing after it was created."""

_NODE_SILENCE = timedelta(seconds=30)
"""How long after its grace period a deleted pod may exist before its node counts as lost."""


class PodLifecycle:
    """The state of one pod between observations.

    How it works: the caller watches the pod, and calls :meth:`observe` with each event, and periodically
    without one, because of the deadlines. Once there is an exit, each call returns it.

    :param container: name of the base container
    :param start_by: deadline for its start; ``None``: there is none
    :param has_secret: whether the job's Secret was created; until then the pod waits for it
    """

    def __init__(self, container: str, *, start_by: datetime | None = None, has_secret: bool = False) -> None:
        self._container = container
        self.start_by = start_by
        """Deadline for the container's start."""
        self._has_secret = has_secret
        self._secret_missing_since: datetime | None = None
        self._pull_error = ""
        self._is_deletion_expected = False
        self._exit: Exit | None = None
        self.pod: Pod | None = None
        """The pod as it was last observed, trimmed."""
        self.has_started = False
        """Whether the container has started."""
        self.is_stuck = False
        """Whether the exit means that the pod did not start. Delete the pod: it still might."""

    def note_secret(self) -> None:
        """Note that the job's Secret was created."""
        self._has_secret = True

    def expect_deletion(self) -> None:
        """Note that this process deletes the pod: the exit is then that of its container."""
        self._is_deletion_expected = True

    @property
    def needs_events(self) -> bool:
        """Whether only the pod's events explain the exit."""
        return self._is_unexplained and find_running_init_container(self.pod or {}) is None

    @property
    def blamed_init_container(self) -> str | None:
        """The init container that made the pod fail, if one did: its output says why."""
        pod, exit_ = self.pod or {}, self._exit
        if exit_ is None or self.has_started:
            return None
        if exit_.reason == "InitContainerFailed":
            return find_failed_init_container(pod)
        return find_running_init_container(pod) if self._is_unexplained else None

    @property
    def _is_unexplained(self) -> bool:
        return self.is_stuck and self._exit is not None and self._exit.reason == UNCLASSIFIED

    @property
    def warning(self) -> str | None:
        """A warning about a pod that succeeded, if there is one."""
        return find_warning(self.pod or {}, self._container)

    def add_tail(self, exit_: Exit, tail: Sequence[str]) -> Exit:
        """Return the exit with the last lines of output, without text that its message repeats."""
        return add_tail(exit_, get_termination_message(self.pod or {}, self._container), tail)

    def observe(self, event: str, pod: Pod | None, now: datetime) -> Exit | None:
        """Return the exit of the pod; ``None`` while it runs.

        :param event: ``ADDED``, ``MODIFIED``, ``DELETED`` (``pod`` is then its last state, if that is known),
            or empty if only time has passed
        :param now: aware time, from the same clock as ``start_by``
        """
        if self._exit is None:
            if pod is not None:
                self.pod = trim_pod(pod)
                self.has_started = self.has_started or has_container_started(self.pod, self._container)
            self._exit = self._find_exit(event, self.pod or {}, now)
        return self._exit

    def _find_exit(self, event: str, pod: Pod, now: datetime) -> Exit | None:
        exit_ = read_exit(pod, self._container)
        if exit_ is not None:
            own = read_container_exit(pod, self._container) if self._is_deletion_expected else None
            return own or exit_
        if event == "DELETED":
            return self._describe_deletion(pod)
        if _is_lost(pod, now):
            message = "The pod is being deleted, but its node does not respond"
            return Exit(reason="NodeLost", message=message)
        if pod and not self.has_started and not pod["metadata"].get("deletionTimestamp"):
            stuck = self._find_start_failure(pod, now) or self._check_deadline(pod, now)
            self.is_stuck = stuck is not None
            return stuck
        return None

    def _describe_deletion(self, pod: Pod) -> Exit:
        if self._is_deletion_expected:
            message = "The pod was deleted before the exit of its container could be read"
            return Exit(reason="Stopped", message=message, is_seen=False)
        if (disrupted := find_disruption(pod)) is not None:
            return Exit(
                reason="NodeLost" if self.has_started else disrupted[0], message=disrupted[1], is_seen=False
            )
        phase = "while its container was running" if self.has_started else "before its container started"
        return Exit(reason="PodDeleted", message=f"The pod was deleted {phase}", is_seen=False)

    def _find_start_failure(self, pod: Pod, now: datetime) -> Exit | None:
        for _, waiting in list_waiting_containers(pod):
            if waiting.get("reason") == "ErrImagePull":
                self._pull_error = get_message(waiting)
        failure = find_start_failure(pod)
        if failure is None:
            self._secret_missing_since = None
            return None
        if failure.reason == "ImagePull" and self._pull_error:
            failure = Exit(reason="ImagePull", message=_add_cause(failure.message or "", self._pull_error))
        if may_recover(failure) or self._waits_for_secret(pod, failure, now):
            return None
        return failure

    def _waits_for_secret(self, pod: Pod, failure: Exit, now: datetime) -> bool:
        """Return whether the pod only waits for the job's Secret, which the node checks from time to time."""
        is_ours = f'secret "{pod["metadata"].get("name")}"' in (failure.message or "")
        if failure.reason != "CreateContainerConfigError" or not is_ours:
            return False
        if not self._has_secret:
            return True
        self._secret_missing_since = self._secret_missing_since or now
        return now - self._secret_missing_since < _SECRET_SETTLE

    def _check_deadline(self, pod: Pod, now: datetime) -> Exit | None:
        if self.start_by is None or now < self.start_by:
            return None
        name, text = describe_waiting(pod)
        if self._pull_error and find_running_init_container(pod) is None:
            name, text = "ImagePull", _add_cause(text, self._pull_error)
        return Exit(reason=name, message=f"The pod did not start in time: {text}")


def _is_lost(pod: Pod, now: datetime) -> bool:
    until = (pod.get("metadata") or {}).get("deletionTimestamp")
    return until is not None and now - datetime.fromisoformat(until) > _NODE_SILENCE


def _add_cause(text: str, cause: str) -> str:
    return text if cause in text else f"{text}: {cause}"
