# SPDX-License-Identifier: Apache-2.0
"""End of a pod, in the cluster's own words.

Pure: a pod is what the Kubernetes API says of it, as JSON (camelCase). It is read here and in ``pod_start``
alone, for the runner, which waits for its pod, and for the trigger, which watches many.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
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

_STARTED_BADLY = frozenset({"ContainerCannotRun", "StartError"})
_NAMED_BY_POD = frozenset({"DeadlineExceeded", "ContainerStatusUnknown"})
# The exceptions for what a pod says of itself. What its node says in other words has no class of its own.
_CLASSES = {
    "Evicted": "Evicted",
    "Preempting": "Evicted",
    "Shutdown": "Evicted",
    "NodeShutdown": "Evicted",
    "Terminated": "Evicted",
    "DeadlineExceeded": "DeadlineExceeded",
    "NodeLost": "NodeLost",
}
# Why newer clusters say that they took a pod away (condition DisruptionTarget).
_DISRUPTIONS = {
    "EvictionByEvictionAPI": "Evicted",
    "PreemptionByScheduler": "Evicted",
    "TerminationByKubelet": "Evicted",
    "DeletionByTaintManager": "Evicted",
    "DeletionByPodGC": "NodeLost",
}
_SIGNALS_FROM = 128
_KILLED_CODE = 137
_FALLBACK_BYTES = 2000  # of a log at least, where a node makes a termination message of it and cuts that


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
        return _named(reason, status)
    terminated = _terminated(status, container)
    if terminated is not None:
        return _deleted(pod, terminated) or _exit_of(terminated)
    if (failed := _failed_init_container(pod)) is not None:
        return failed
    if status.get("phase") == "Failed":
        said = said_of(status) or "The pod failed before its container started"
        return Exit(reason="PodFailed", message=said)
    if status.get("phase") == "Succeeded":
        return Exit(code=0)
    return None


def is_running(pod: Pod, container: str) -> bool:
    """Tell whether the base container is up, or was."""
    status = pod.get("status") or {}
    return "running" in _status_of(status, container, "state") or _terminated(status, container) is not None


def is_kept(on_finish: str, *, succeeded: bool) -> bool:
    """Tell whether a pod that has ended is to stay, by its ``on_finish_action``."""
    return on_finish in ("keep_pod", "delete_active_pod") or (
        on_finish == "delete_succeeded_pod" and not succeeded
    )


def warning_of(pod: Pod, container: str) -> str | None:
    """Return a warning about a container that succeeded, if there is one."""
    terminated = _terminated(pod.get("status") or {}, container) or {}
    if terminated.get("exitCode") != 0 or terminated.get("reason") != "OOMKilled":
        return None
    return (
        "OOMKilled: a process of the container used more memory than the limit and was killed. The container"
        " exited with code 0 all the same: its work may be incomplete"
    )


def init_containers(pod: Pod, wanted: Sequence[str] | bool) -> list[str]:
    """Return the names of the init containers that have ended, in their order.

    :param wanted: names, or whether all are
    """
    statuses = (pod.get("status") or {}).get("initContainerStatuses") or ()
    return [
        each["name"]
        for each in statuses
        if "terminated" in (each.get("state") or {})
        and (each["name"] in wanted if isinstance(wanted, Sequence) else wanted)
    ]


def failed_init_container(pod: Pod) -> str | None:
    """Return the name of the init container that made a pod fail, if one did."""
    failed = _failed_init(pod)
    return None if failed is None else str(failed["name"])


def termination_message(pod: Pod, container: str) -> str:
    """Return what the container that made a pod end left as its last word; nothing if it left none."""
    failed = _failed_init(pod)
    terminated = _terminated(pod.get("status") or {}, container) or (
        failed["state"]["terminated"] if failed is not None else {}
    )
    return said_of(terminated)


def with_tail(exit_: Exit, termination_message: str, tail: Sequence[str]) -> Exit:
    """Return an end with the last lines of output, without what stands in both of its texts.

    Under ``terminationMessagePolicy: FallbackToLogsOnError`` the node makes the termination message of the
    log's end, and cuts it.
    """
    said, log = _plain(termination_message), _plain("\n".join(tail))
    if not said or not log:
        return replace(exit_, tail=tuple(tail))
    is_cut = len(said.encode()) >= _FALLBACK_BYTES
    if log == said or log.endswith(f"\n{said}") or (is_cut and log.endswith(said)):
        message = (exit_.message or "").removesuffix(termination_message).removesuffix(": ")
        return replace(exit_, message=message or None, tail=tuple(tail))
    is_whole = said.endswith(f"\n{log}")
    return replace(exit_, tail=() if is_whole else tuple(tail))


def trimmed(pod: Pod) -> Pod:
    """Return what is read of a pod here and by who watches it: a small part."""
    metadata, status = pod.get("metadata") or {}, pod.get("status") or {}
    kept: dict[str, Any] = {name: metadata[name] for name in _KEPT_METADATA if metadata.get(name)}
    labels = metadata.get("labels") or {}
    if ours := {name: value for name, value in labels.items() if name.startswith(_OWN_PREFIX)}:
        kept["labels"] = ours
    return {"metadata": kept, "spec": _trimmed_spec(pod.get("spec") or {}), "status": _trimmed_status(status)}


def _trimmed_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    kept = _some(spec, "nodeName")
    sidecars = [
        _some(each, "name", "restartPolicy")
        for each in spec.get("initContainers") or ()
        if each.get("restartPolicy") == "Always"
    ]
    return {**kept, "initContainers": sidecars} if sidecars else kept


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
    reason, code, said = terminated.get("reason"), terminated.get("exitCode"), said_of(terminated)
    if code == 0:  # whatever became of its other processes
        return Exit(code=0, message=said or None)
    if reason == "OOMKilled":
        return Exit(code=code, reason=reason, message=_told(_out_of_memory(code), said))
    if reason in _STARTED_BADLY:
        return Exit(code=code, reason="StartError", message=said or reason)
    if reason in _NAMED_BY_POD:
        return replace(_named(reason, terminated), code=code)
    number = terminated.get("signal") or (code - _SIGNALS_FROM if code and code > _SIGNALS_FROM else 0)
    name = _signal_name(number) if number else None
    return Exit(code=code, signal=name, message=said or None)


def _out_of_memory(code: int | None) -> str:
    if code in (None, _KILLED_CODE):
        return "The container used more memory than its limit and was killed"
    return (
        "A process of the container used more memory than the limit and was killed:"
        f" the container exited with code {code}"
    )


def _named(reason: str, status: Mapping[str, Any]) -> Exit:
    """Return the end that a pod, its node or its container has a name for."""
    name = _CLASSES.get(reason, "PodFailed")
    said = said_of(status) or "the cluster says no more"
    return Exit(reason=name, message=said if said_of(status) and name == reason else f"{reason}: {said}")


def _told(sentence: str, said: str) -> str:
    return f"{sentence}: {said}" if said else sentence


def _deleted(pod: Pod, terminated: Mapping[str, Any]) -> Exit | None:
    """Return the end of a pod whose container ended otherwise than well because somebody deleted it."""
    code, said = terminated.get("exitCode"), said_of(terminated)
    if code == 0 or not (pod.get("metadata") or {}).get("deletionTimestamp"):
        return None
    if terminated.get("reason") == "OOMKilled" or terminated.get("reason") in _STARTED_BADLY:
        return None
    reason, message = disruption_of(pod) or ("PodDeleted", "Somebody deleted the pod while its container ran")
    return Exit(code=code, reason=reason, message=_told(f"{message} (exit code {code})", said))


def as_deleted_by_us(pod: Pod, container: str) -> Exit | None:
    """Return how the container of a pod that we are deleting ended; ``None`` if it is still running."""
    terminated = _terminated(pod.get("status") or {}, container)
    return None if terminated is None else _exit_of(terminated)


def disruption_of(pod: Pod) -> tuple[str, str] | None:
    """Return the error's name and a text if a newer cluster says why it takes a pod away."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            reason = condition.get("reason") or "DisruptionTarget"
            return _DISRUPTIONS.get(reason, "Evicted"), said_of(condition) or reason
    return None


def _failed_init_container(pod: Pod) -> Exit | None:
    failed = _failed_init(pod)
    if failed is None:
        return None
    terminated = failed["state"]["terminated"]
    if (deleted := _deleted(pod, terminated)) is not None:
        return deleted
    code, reason = terminated["exitCode"], terminated.get("reason")
    named = f" ({reason})" if reason not in (None, "Error") else ""
    sentence = f"Init container {failed['name']} exited with code {code}{named}"
    return Exit(code=code, reason="InitContainerFailed", message=_told(sentence, said_of(terminated)))


def _failed_init(pod: Pod) -> Mapping[str, Any] | None:
    """Return the status of the init container that made a pod fail, if one did."""
    status, declared = pod.get("status") or {}, (pod.get("spec") or {}).get("initContainers") or ()
    if status.get("phase") != "Failed":
        return None  # it may be tried again
    sidecars = {each["name"] for each in declared if each.get("restartPolicy") == "Always"}
    for each in status.get("initContainerStatuses") or ():
        terminated = (each.get("state") or {}).get("terminated")
        if terminated and terminated.get("exitCode") and each["name"] not in sidecars:
            found: Mapping[str, Any] = each
            return found
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


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def said_of(status: Mapping[str, Any]) -> str:
    """Return the message in a status, a condition or an event."""
    return str(status.get("message") or "").strip()


def _signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name
    except ValueError:
        return None
