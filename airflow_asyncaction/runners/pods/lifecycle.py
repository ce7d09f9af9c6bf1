# SPDX-License-Identifier: Apache-2.0
"""The life of one pod, from what is seen of it one after the other, to its end.

Pure: whoever watches the pod passes on what it sees, and the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.pods.exit_status import (
    Pod,
    as_deleted_by_us,
    disruption_of,
    end_of,
    failed_init_container,
    is_running,
    said_of,
    termination_message,
    trimmed,
    warning_of,
    with_tail,
)
from airflow_asyncaction.runners.pods.startup import (
    NO_CLASS,
    hanging_init_container,
    may_pass,
    trouble_of,
    waiting_containers,
    waiting_for,
)

_SECRET_SETTLE = timedelta(minutes=3)
"""For how long the node may go on to say that the job's Secret is not there after it was created."""

_NODE_SILENCE = timedelta(seconds=30)
"""How long after its grace a deleted pod may be there: then its node does not answer."""


class PodStory:
    """What is to be remembered between looks at one pod, to say how it ended.

    How it works: whoever watches the pod calls :meth:`look` with each event, and now and then without one,
    since clocks run. It returns the end once there is one, and the same one ever after.

    :param container: name of the base container
    :param start_by: when it must be up; ``None``: it may wait for ever
    :param secret_is_there: whether the job's Secret was created; until then the pod waits for it
    """

    def __init__(
        self, container: str, *, start_by: datetime | None = None, secret_is_there: bool = False
    ) -> None:
        self._container = container
        self.start_by = start_by
        """When the container must be up."""
        self._secret_is_there = secret_is_there
        self._without_secret_since: datetime | None = None
        self._pull_error = ""
        self._is_ours_to_delete = False
        self._end: Exit | None = None
        self.pod: Pod | None = None
        """The pod as it was seen last, trimmed."""
        self.has_started = False
        """Whether the container is, or was, up."""
        self.is_stuck = False
        """Whether the end is that the pod does not start: it must be deleted, since it still might."""

    def secret_is_there(self) -> None:
        """Note that the job's Secret was created."""
        self._secret_is_there = True

    def deleted_by_us(self) -> None:
        """Note that we delete the pod: its end is then what its container says."""
        self._is_ours_to_delete = True

    @property
    def wants_events(self) -> bool:
        """Whether the end is one that only the pod's events explain."""
        return self._is_unexplained and hanging_init_container(self.pod or {}) is None

    @property
    def init_container(self) -> str | None:
        """The init container because of which the pod has ended, if there is one: its output says why."""
        pod, ended = self.pod or {}, self._end
        if ended is None or self.has_started:
            return None
        if ended.reason == "InitContainerFailed":
            return failed_init_container(pod)
        return hanging_init_container(pod) if self._is_unexplained else None

    @property
    def _is_unexplained(self) -> bool:
        return self.is_stuck and self._end is not None and self._end.reason == NO_CLASS

    @property
    def warning(self) -> str | None:
        """A warning about a pod that succeeded, if there is one."""
        return warning_of(self.pod or {}, self._container)

    def with_tail(self, ended: Exit, tail: Sequence[str]) -> Exit:
        """Return the end with the last lines of output: what the pod says as well stands there once."""
        return with_tail(ended, termination_message(self.pod or {}, self._container), tail)

    def look(self, event: str, pod: Pod | None, now: datetime) -> Exit | None:
        """Take in what the cluster says; return how the pod ended, ``None`` while it goes on.

        :param event: ``ADDED``, ``MODIFIED``, ``DELETED`` (``pod`` is how it was last, if that is known), or
            nothing: only time has passed
        :param now: aware, by the same clock as ``start_by``
        """
        if self._end is None:
            if pod is not None:
                self.pod = trimmed(pod)
                self.has_started = self.has_started or is_running(self.pod, self._container)
            self._end = self._judged(event, self.pod or {}, now)
        return self._end

    def _judged(self, event: str, pod: Pod, now: datetime) -> Exit | None:
        ended = end_of(pod, self._container)
        if ended is not None:
            return as_deleted_by_us(pod, self._container) or ended if self._is_ours_to_delete else ended
        if event == "DELETED":
            return self._gone(pod)
        if _is_lost(pod, now):
            return Exit(reason="NodeLost", message="The pod is to be deleted, and its node does not answer")
        if pod and not self.has_started and not pod["metadata"].get("deletionTimestamp"):
            stuck = self._trouble(pod, now) or self._late(pod, now)
            self.is_stuck = stuck is not None
            return stuck
        return None

    def _gone(self, pod: Pod) -> Exit:
        if self._is_ours_to_delete:
            message = "The pod was deleted before its container's end could be seen"
            return Exit(reason="Stopped", message=message, is_seen=False)
        if (disrupted := disruption_of(pod)) is not None:
            return Exit(
                reason="NodeLost" if self.has_started else disrupted[0], message=disrupted[1], is_seen=False
            )
        doing = "while its container ran" if self.has_started else "before its container was started"
        return Exit(reason="PodDeleted", message=f"Somebody deleted the pod {doing}", is_seen=False)

    def _trouble(self, pod: Pod, now: datetime) -> Exit | None:
        for _, waiting in waiting_containers(pod):
            if waiting.get("reason") == "ErrImagePull":
                self._pull_error = said_of(waiting)
        trouble = trouble_of(pod)
        if trouble is None:
            self._without_secret_since = None
            return None
        if trouble.reason == "ImagePull" and self._pull_error:
            trouble = Exit(reason="ImagePull", message=_with_cause(trouble.message or "", self._pull_error))
        if may_pass(trouble) or self._waits_for_secret(pod, trouble, now):
            return None
        return trouble

    def _waits_for_secret(self, pod: Pod, trouble: Exit, now: datetime) -> bool:
        """Tell whether the pod only waits for the job's Secret: the node looks for it now and then."""
        is_ours = f'secret "{pod["metadata"].get("name")}"' in (trouble.message or "")
        if trouble.reason != "CreateContainerConfigError" or not is_ours:
            return False
        if not self._secret_is_there:
            return True
        self._without_secret_since = self._without_secret_since or now
        return now - self._without_secret_since < _SECRET_SETTLE

    def _late(self, pod: Pod, now: datetime) -> Exit | None:
        if self.start_by is None or now < self.start_by:
            return None
        name, text = waiting_for(pod)
        if self._pull_error and hanging_init_container(pod) is None:
            name, text = "ImagePull", _with_cause(text, self._pull_error)
        return Exit(reason=name, message=f"The pod did not start in time: {text}")


def _is_lost(pod: Pod, now: datetime) -> bool:
    until = (pod.get("metadata") or {}).get("deletionTimestamp")
    return until is not None and now - datetime.fromisoformat(until) > _NODE_SILENCE


def _with_cause(text: str, cause: str) -> str:
    return text if cause in text else f"{text}: {cause}"
