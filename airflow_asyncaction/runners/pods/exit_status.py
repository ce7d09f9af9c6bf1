# SPDX-License-Identifier: Apache-2.0
"""Exit status of a pod, as the Kubernetes API describes it. No I/O.

Pods are the API's JSON (camelCase). This module and ``startup`` interpret it, for runner and trigger.
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
"""Phases of a pod whose containers have all ended."""

_OWN_PREFIX = "asyncaction/"
_KEPT_METADATA = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")

_START_ERRORS = frozenset({"ContainerCannotRun", "StartError"})
_POD_REASONS = frozenset({"DeadlineExceeded", "ContainerStatusUnknown"})
# The exception for each reason of a pod. Other reasons have no class of their own.
_CLASSES = {
    "Evicted": "Evicted",
    "Preempting": "Evicted",
    "Shutdown": "Evicted",
    "NodeShutdown": "Evicted",
    "Terminated": "Evicted",
    "DeadlineExceeded": "DeadlineExceeded",
    "NodeLost": "NodeLost",
}
# The exception for each reason of the condition DisruptionTarget, which newer clusters set.
_DISRUPTIONS = {
    "EvictionByEvictionAPI": "Evicted",
    "PreemptionByScheduler": "Evicted",
    "TerminationByKubelet": "Evicted",
    "DeletionByTaintManager": "Evicted",
    "DeletionByPodGC": "NodeLost",
}
_SIGNALS_FROM = 128
_KILLED_CODE = 137
_FALLBACK_BYTES = 2000  # from this length on, a termination message made of the log may be truncated


def read_exit(pod: Pod, container: str) -> Exit | None:
    """Return the exit of a pod; ``None`` while it runs.

    Only the base container counts: sidecars may still run. The pod's own reason (evicted, deadline exceeded,
    node lost) takes precedence over its containers' states, which are a consequence. A container that was
    restarted has ended: a job runs once.

    :param container: name of the base container
    """
    status = pod.get("status") or {}
    reason = status.get("reason")
    if reason and (status.get("phase") == "Failed" or reason == "NodeLost"):
        return _describe_reason(reason, status)
    terminated = _find_terminated(status, container)
    if terminated is not None:
        return _describe_deletion(pod, terminated) or _describe_terminated(terminated)
    if (failed := _describe_failed_init(pod)) is not None:
        return failed
    if status.get("phase") == "Failed":
        message = get_message(status) or "The pod failed before its container started"
        return Exit(reason="PodFailed", message=message)
    if status.get("phase") == "Succeeded":
        return Exit(code=0)
    return None


def has_container_started(pod: Pod, container: str) -> bool:
    """Return whether the base container is or was running."""
    status = pod.get("status") or {}
    return "running" in _find_status(status, container, "state") or bool(_find_terminated(status, container))


def should_keep_pod(on_finish: str, *, succeeded: bool) -> bool:
    """Return whether a pod that has ended should be kept, according to its ``on_finish_action``."""
    return on_finish in ("keep_pod", "delete_active_pod") or (
        on_finish == "delete_succeeded_pod" and not succeeded
    )


def find_warning(pod: Pod, container: str) -> str | None:
    """Return a warning about a container that exited with code 0, if there is one."""
    terminated = _find_terminated(pod.get("status") or {}, container) or {}
    if terminated.get("exitCode") != 0 or terminated.get("reason") != "OOMKilled":
        return None
    return (
        "OOMKilled: a process of the container exceeded the memory limit and was killed. The container exited"
        " with code 0 nevertheless: its work may be incomplete"
    )


def list_ended_init_containers(pod: Pod, requested: Sequence[str] | bool) -> list[str]:
    """Return the names of the requested init containers that have ended, in their order.

    :param requested: names, or whether all are
    """
    statuses = (pod.get("status") or {}).get("initContainerStatuses") or ()
    return [
        each["name"]
        for each in statuses
        if "terminated" in (each.get("state") or {})
        and (each["name"] in requested if isinstance(requested, Sequence) else requested)
    ]


def find_failed_init_container(pod: Pod) -> str | None:
    """Return the name of the init container that made a pod fail, if one did."""
    failed = _find_failed_init(pod)
    return None if failed is None else str(failed["name"])


def get_termination_message(pod: Pod, container: str) -> str:
    """Return the termination message of the container that ended the pod; empty if it wrote none."""
    failed = _find_failed_init(pod)
    terminated = _find_terminated(pod.get("status") or {}, container) or (
        failed["state"]["terminated"] if failed is not None else {}
    )
    return get_message(terminated)


def add_tail(exit_: Exit, termination_message: str, tail: Sequence[str]) -> Exit:
    """Return an exit with the last lines of output, without text that its message repeats.

    Under ``terminationMessagePolicy: FallbackToLogsOnError`` the termination message is the end of the log,
    truncated.
    """
    written, log = _normalize(termination_message), _normalize("\n".join(tail))
    if not written or not log:
        return replace(exit_, tail=tuple(tail))
    is_truncated = len(written.encode()) >= _FALLBACK_BYTES
    if log == written or log.endswith(f"\n{written}") or (is_truncated and log.endswith(written)):
        message = (exit_.message or "").removesuffix(termination_message).removesuffix(": ")
        return replace(exit_, message=message or None, tail=tuple(tail))
    is_contained = written.endswith(f"\n{log}")
    return replace(exit_, tail=() if is_contained else tuple(tail))


def trim_pod(pod: Pod) -> Pod:
    """Return the small part of a pod that this package reads."""
    metadata, status = pod.get("metadata") or {}, pod.get("status") or {}
    kept: dict[str, Any] = {name: metadata[name] for name in _KEPT_METADATA if metadata.get(name)}
    labels = metadata.get("labels") or {}
    if ours := {name: value for name, value in labels.items() if name.startswith(_OWN_PREFIX)}:
        kept["labels"] = ours
    return {"metadata": kept, "spec": _trim_spec(pod.get("spec") or {}), "status": _trim_status(status)}


def _trim_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    kept = _pick(spec, "nodeName")
    sidecars = [
        _pick(each, "name", "restartPolicy")
        for each in spec.get("initContainers") or ()
        if each.get("restartPolicy") == "Always"
    ]
    return {**kept, "initContainers": sidecars} if sidecars else kept


def _trim_status(status: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = _pick(status, "phase", "reason", "message")
    conditions = [
        _pick(each, "type", "status", "reason", "message")
        for each in status.get("conditions") or ()
        if each.get("type") in ("PodScheduled", "DisruptionTarget")
    ]
    if conditions:
        kept["conditions"] = conditions
    for kind in ("initContainerStatuses", "containerStatuses"):
        if status.get(kind):
            kept[kind] = [_pick(each, "name", "state", "lastState", "restartCount") for each in status[kind]]
    return kept


def _pick(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: mapping[name] for name in names if mapping.get(name)}


def _describe_terminated(terminated: Mapping[str, Any]) -> Exit:
    reason, code = terminated.get("reason"), terminated.get("exitCode")
    message = get_message(terminated)
    if code == 0:  # even if other processes of it were killed
        return Exit(code=0, message=message or None)
    if reason == "OOMKilled":
        return Exit(code=code, reason=reason, message=_join(_describe_oom(code), message))
    if reason in _START_ERRORS:
        return Exit(code=code, reason="StartError", message=message or reason)
    if reason in _POD_REASONS:
        return replace(_describe_reason(reason, terminated), code=code)
    number = terminated.get("signal") or (code - _SIGNALS_FROM if code and code > _SIGNALS_FROM else 0)
    name = _signal_name(number) if number else None
    return Exit(code=code, signal=name, message=message or None)


def _describe_oom(code: int | None) -> str:
    if code in (None, _KILLED_CODE):
        return "The container exceeded its memory limit and was killed"
    return (
        "A process of the container exceeded the memory limit and was killed:"
        f" the container exited with code {code}"
    )


def _describe_reason(reason: str, status: Mapping[str, Any]) -> Exit:
    """Return the exit for a reason that the pod, its node or its container gives."""
    name, message = _CLASSES.get(reason, "PodFailed"), get_message(status)
    if message and name == reason:
        return Exit(reason=name, message=message)
    return Exit(reason=name, message=f"{reason}: {message or 'the cluster gives no details'}")


def _join(sentence: str, message: str) -> str:
    return f"{sentence}: {message}" if message else sentence


def _describe_deletion(pod: Pod, terminated: Mapping[str, Any]) -> Exit | None:
    """Return the exit of a pod whose container failed because the pod was deleted."""
    code, message = terminated.get("exitCode"), get_message(terminated)
    if code == 0 or not (pod.get("metadata") or {}).get("deletionTimestamp"):
        return None
    if terminated.get("reason") == "OOMKilled" or terminated.get("reason") in _START_ERRORS:
        return None
    deleted = ("PodDeleted", "The pod was deleted while its container was running")
    reason, sentence = find_disruption(pod) or deleted
    return Exit(code=code, reason=reason, message=_join(f"{sentence} (exit code {code})", message))


def read_container_exit(pod: Pod, container: str) -> Exit | None:
    """Return the exit of the base container alone; ``None`` while it runs."""
    terminated = _find_terminated(pod.get("status") or {}, container)
    return None if terminated is None else _describe_terminated(terminated)


def find_disruption(pod: Pod) -> tuple[str, str] | None:
    """Return the error name and a message if the cluster says why it disrupted a pod."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            reason = condition.get("reason") or "DisruptionTarget"
            return _DISRUPTIONS.get(reason, "Evicted"), get_message(condition) or reason
    return None


def _describe_failed_init(pod: Pod) -> Exit | None:
    failed = _find_failed_init(pod)
    if failed is None:
        return None
    terminated = failed["state"]["terminated"]
    if (deleted := _describe_deletion(pod, terminated)) is not None:
        return deleted
    code, reason = terminated["exitCode"], terminated.get("reason")
    suffix = f" ({reason})" if reason not in (None, "Error") else ""
    sentence = f"Init container {failed['name']} exited with code {code}{suffix}"
    return Exit(code=code, reason="InitContainerFailed", message=_join(sentence, get_message(terminated)))


def _find_failed_init(pod: Pod) -> Mapping[str, Any] | None:
    """Return the status of the init container that made a pod fail, if one did."""
    status, declared = pod.get("status") or {}, (pod.get("spec") or {}).get("initContainers") or ()
    if status.get("phase") != "Failed":
        return None  # it may be restarted
    sidecars = {each["name"] for each in declared if each.get("restartPolicy") == "Always"}
    for each in status.get("initContainerStatuses") or ():
        terminated = (each.get("state") or {}).get("terminated")
        if terminated and terminated.get("exitCode") and each["name"] not in sidecars:
            found: Mapping[str, Any] = each
            return found
    return None


def _find_terminated(status: Mapping[str, Any], container: str) -> Mapping[str, Any] | None:
    for kind in ("state", "lastState"):
        terminated = _find_status(status, container, kind).get("terminated")
        if isinstance(terminated, Mapping):
            return terminated
    return None


def _find_status(status: Mapping[str, Any], container: str, kind: str) -> Mapping[str, Any]:
    for each in status.get("containerStatuses") or ():
        if each.get("name") == container:
            return each.get(kind) or {}
    return {}


def _normalize(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def get_message(status: Mapping[str, Any]) -> str:
    """Return the message of a status, a condition or an event."""
    return str(status.get("message") or "").strip()


def _signal_name(number: int) -> str | None:
    try:
        return signal.Signals(number).name
    except ValueError:
        return None
