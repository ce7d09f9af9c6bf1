# SPDX-License-Identifier: Apache-2.0
"""How a pod ended, or why it will not start, in the cluster's own words.

Pure: a pod is what the Kubernetes API says of it, as JSON (camelCase). It is read here alone, for the runner,
which waits for its pod, and for the trigger, which watches many.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from airflow_asyncaction.protocol.lifecycle import Exit

Pod = Mapping[str, Any]

ACTION_LABEL = "asyncaction/action"
"""Label of pods and Secrets: the action's id."""

ON_FINISH_LABEL = "asyncaction/on-finish"
"""Label of pods: ``delete_pod``, ``keep_pod`` or ``delete_succeeded_pod``."""

TASK_KEY_ANNOTATION = "asyncaction/task-key"
"""Annotation of pods that have no Secret: the key of the action's task."""

ENDED_PHASES = ("Succeeded", "Failed")
"""Phases of a pod none of whose containers will run any more."""

_OWN_PREFIX = "asyncaction/"
_KEPT_METADATA = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")

_TROUBLE = {
    "ErrImagePull": "ImagePull",
    "ImagePullBackOff": "ImagePull",
    "ErrImageNeverPull": "ImagePull",
    "RegistryUnavailable": "ImagePull",
    "ImageInspectError": "ImagePull",
    "InvalidImageName": "InvalidImageName",
    "CreateContainerConfigError": "CreateContainerConfigError",
    "CreateContainerError": "StartError",
    "RunContainerError": "StartError",
}
# What passes by itself, of a registry as KubernetesPodOperator knows it, and of a busy node: until
# ``start_timeout`` it may.
_PASSING: Mapping[str, tuple[str, ...]] = {
    "ImagePull": (
        "pull qps exceeded", "rate limit", "too many requests", "toomanyrequests", "temporarily unavailable",
        "timeout", "bad gateway", "service unavailable", "gateway timeout",
    ),
    "CreateContainerConfigError": ("failed to sync", "timed out", "context deadline exceeded"),
    "StartError": ("timed out", "context deadline exceeded", "failed to reserve container name"),
}  # fmt: skip
_STARTED_BADLY = frozenset({"ContainerCannotRun", "StartError"})
_NAMED_BY_POD = frozenset({"DeadlineExceeded", "ContainerStatusUnknown"})
# Why newer clusters say that they took a pod away (condition DisruptionTarget).
_DISRUPTIONS = {
    "EvictionByEvictionAPI": "Evicted",
    "PreemptionByScheduler": "Evicted",
    "TerminationByKubelet": "Evicted",
    "DeletionByTaintManager": "Evicted",
    "DeletionByPodGC": "NodeLost",
}
_SIGNALS_FROM = 128

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
            return _as_deleted_by_us(pod, self._container) or ended if self._is_ours_to_delete else ended
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
        if (disrupted := _disruption(pod)) is not None:
            return Exit(
                reason="NodeLost" if self.has_started else disrupted[0], message=disrupted[1], is_seen=False
            )
        doing = "while its container ran" if self.has_started else "before its container was started"
        return Exit(reason="PodDeleted", message=f"Somebody deleted the pod {doing}", is_seen=False)

    def _trouble(self, pod: Pod, now: datetime) -> Exit | None:
        for _, waiting in _waiting(pod.get("status") or {}):
            if waiting.get("reason") == "ErrImagePull":
                self._pull_error = _said(waiting)
        trouble = trouble_of(pod)
        if trouble is None:
            self._without_secret_since = None
            return None
        if trouble.reason == "ImagePull" and self._pull_error:
            trouble = Exit(reason="ImagePull", message=_with_cause(trouble.message or "", self._pull_error))
        if _may_pass(trouble) or self._waits_for_secret(pod, trouble, now):
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
        if self._pull_error:
            name, text = "ImagePull", _with_cause(text, self._pull_error)
        return Exit(reason=_TROUBLE.get(name, name), message=f"The pod did not start in time: {text}")


def end_of(pod: Pod, container: str) -> Exit | None:
    """Return how a pod ended; ``None`` while it goes on.

    What counts is the base container: sidecars may run on. What the pod says of itself (evicted, its
    deadline, its node) goes before what its containers say, which is only how they died of it. A container
    that was started again has ended: a job is run once.

    :param container: name of the base container
    """
    status = pod.get("status") or {}
    reason = status.get("reason")
    if reason and (status.get("phase") == "Failed" or reason == "NodeLost"):
        return Exit(reason=reason, message=_said(status) or f"The pod failed: {reason}")
    terminated = _terminated(status, container)
    if terminated is not None:
        return _deleted(pod, terminated) or _exit_of(terminated)
    if (failed := _failed_init_container(pod)) is not None:
        return failed
    if status.get("phase") == "Failed":
        return Exit(
            reason="PodFailed", message=_said(status) or "The pod failed before its container started"
        )
    if status.get("phase") == "Succeeded":
        return Exit(code=0)
    return None


def trouble_of(pod: Pod) -> Exit | None:
    """Return why a pod will never start as it is; ``None`` if nothing is known against it.

    Kubernetes itself tries for ever. A pod that no node can take now may be taken later: that is not trouble,
    but what :func:`waiting_for` says.
    """
    for name, waiting in _waiting(pod.get("status") or {}):
        reason = waiting.get("reason") or ""
        if reason in _TROUBLE:
            return Exit(reason=_TROUBLE[reason], message=f"Container {name}: {_said(waiting) or reason}")
    return None


def waiting_for(pod: Pod) -> tuple[str, str]:
    """Return the name and the text of what keeps a pod from starting, as far as the cluster says."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") != "True":
            return condition.get("reason") or "Unschedulable", _said(condition) or "no node takes it"
    for name, waiting in _waiting(status):
        reason = waiting.get("reason") or "Waiting"
        return reason, f"Container {name}: {_said(waiting) or reason}"
    phase = status.get("phase") or "Pending"
    return phase, _said(status) or f"it is {phase}, and the cluster does not say why"


def is_running(pod: Pod, container: str) -> bool:
    """Tell whether the base container is up, or was."""
    status = pod.get("status") or {}
    return "running" in _status_of(status, container, "state") or _terminated(status, container) is not None


def is_kept(on_finish: str, *, succeeded: bool) -> bool:
    """Tell whether a pod that has ended is to stay, by its ``on_finish_action``."""
    return on_finish in ("keep_pod", "delete_active_pod") or (
        on_finish == "delete_succeeded_pod" and not succeeded
    )


def trimmed(pod: Pod) -> Pod:
    """Return what is read of a pod here and by who watches it: a small part."""
    metadata, status = pod.get("metadata") or {}, pod.get("status") or {}
    kept: dict[str, Any] = {name: metadata[name] for name in _KEPT_METADATA if metadata.get(name)}
    labels = metadata.get("labels") or {}
    if ours := {name: value for name, value in labels.items() if name.startswith(_OWN_PREFIX)}:
        kept["labels"] = ours
    node = (pod.get("spec") or {}).get("nodeName")
    return {"metadata": kept, "spec": {"nodeName": node} if node else {}, "status": _trimmed_status(status)}


def _trimmed_status(status: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = _some(status, "phase", "reason", "message")
    conditions = [
        _some(each, "type", "status", "reason", "message")
        for each in status.get("conditions") or ()
        if each.get("type") in ("PodScheduled", "DisruptionTarget")
    ]
    if conditions:
        kept["conditions"] = conditions
    for kind in ("initContainerStatuses", "containerStatuses"):
        if status.get(kind):
            kept[kind] = [_some(each, "name", "state", "lastState", "restartCount") for each in status[kind]]
    return kept


def _some(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: mapping[name] for name in names if mapping.get(name)}


def _exit_of(terminated: Mapping[str, Any]) -> Exit:
    reason, code = terminated.get("reason"), terminated.get("exitCode")
    if reason == "OOMKilled":
        return Exit(
            code=code, reason=reason, message="The container used more memory than it may: it was killed"
        )
    if reason in _STARTED_BADLY:
        return Exit(code=code, reason="StartError", message=_said(terminated) or reason)
    if reason in _NAMED_BY_POD:
        return Exit(code=code, reason=reason, message=_said(terminated) or reason)
    number = terminated.get("signal") or (code - _SIGNALS_FROM if code and code > _SIGNALS_FROM else 0)
    name = _signal_name(number) if number else None
    return Exit(code=code, signal=name, message=_said(terminated) or None)


def _deleted(pod: Pod, terminated: Mapping[str, Any]) -> Exit | None:
    """Return the end of a pod whose container ended otherwise than well because somebody deleted it."""
    if terminated.get("exitCode") == 0 or not (pod.get("metadata") or {}).get("deletionTimestamp"):
        return None
    if terminated.get("reason") == "OOMKilled" or terminated.get("reason") in _STARTED_BADLY:
        return None
    reason, message = _disruption(pod) or ("PodDeleted", "Somebody deleted the pod while its container ran")
    return Exit(code=terminated.get("exitCode"), reason=reason, message=message)


def _as_deleted_by_us(pod: Pod, container: str) -> Exit | None:
    terminated = _terminated(pod.get("status") or {}, container)
    return None if terminated is None else _exit_of(terminated)


def _disruption(pod: Pod) -> tuple[str, str] | None:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            reason = condition.get("reason") or "DisruptionTarget"
            return _DISRUPTIONS.get(reason, "Evicted"), _said(condition) or reason
    return None


def _is_lost(pod: Pod, now: datetime) -> bool:
    until = (pod.get("metadata") or {}).get("deletionTimestamp")
    return until is not None and now - datetime.fromisoformat(until) > _NODE_SILENCE


def _failed_init_container(pod: Pod) -> Exit | None:
    status = pod.get("status") or {}
    if status.get("phase") != "Failed":
        return None  # it may be tried again
    for each in status.get("initContainerStatuses") or ():
        terminated = (each.get("state") or {}).get("terminated")
        if terminated and terminated.get("exitCode"):
            if (deleted := _deleted(pod, terminated)) is not None:
                return deleted
            reason = terminated.get("reason") or "Error"
            named = f"it exited with code {terminated['exitCode']}" if reason == "Error" else reason
            return Exit(
                code=terminated["exitCode"],
                reason="InitContainerFailed",
                message=f"Init container {each['name']}: {_said(terminated) or named}",
            )
    return None


def _terminated(status: Mapping[str, Any], container: str) -> Mapping[str, Any] | None:
    for kind in ("state", "lastState"):
        terminated = _status_of(status, container, kind).get("terminated")
        if isinstance(terminated, Mapping):
            return terminated
    return None


def _status_of(status: Mapping[str, Any], container: str, kind: str) -> Mapping[str, Any]:
    for each in status.get("containerStatuses") or ():
        if each.get("name") == container:
            return each.get(kind) or {}
    return {}


def _waiting(status: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        for each in status.get(kind) or ():
            waiting = (each.get("state") or {}).get("waiting")
            if waiting:
                yield each["name"], waiting


def _may_pass(trouble: Exit) -> bool:
    text = (trouble.message or "").lower()
    return any(each in text for each in _PASSING.get(trouble.reason or "", ()))


def _with_cause(text: str, cause: str) -> str:
    return text if cause in text else f"{text}: {cause}"


def _said(status: Mapping[str, Any]) -> str:
    return str(status.get("message") or "").strip()


def _signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name
    except ValueError:
        return None
