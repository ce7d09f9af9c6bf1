# SPDX-License-Identifier: Apache-2.0
"""Reasons for which a pod does not start, in the cluster's own words.

Pure, like ``pod_end``: what it says of a pod, and of the pod's events, is an end named by an exception class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.pods.exit_status import Pod, said_of

NO_CLASS = "PodFailed"
"""The name of an end for which there is no class of its own."""

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
_EXPLAINS_NOTHING = frozenset({"PodInitializing", "ContainerCreating"})
_MOST_EVENTS = 3
# That no node took the pod at first is over; and pods run without the cluster's DNS.
_NO_REASONS = frozenset({"FailedScheduling", "MissingClusterDNS"})
_ABSENT = re.compile(
    r'\b(?:config ?maps?|secrets?) "[^"]+" not found|references non-existent (?:config|secret) key',
    re.IGNORECASE,
)


def trouble_of(pod: Pod) -> Exit | None:
    """Return why a pod will never start as it is; ``None`` if nothing is known against it.

    Kubernetes itself never gives up. A pod that no node can take now may be scheduled later: that is no
    trouble yet, and :func:`waiting_for` tells of it.
    """
    for name, waiting in waiting_containers(pod):
        reason = waiting.get("reason") or ""
        if reason in _TROUBLE:
            return Exit(reason=_TROUBLE[reason], message=f"Container {name}: {said_of(waiting) or reason}")
    return None


def may_pass(trouble: Exit) -> bool:
    """Tell whether trouble is of a kind that passes by itself."""
    text = (trouble.message or "").lower()
    return any(each in text for each in _PASSING.get(trouble.reason or "", ()))


def waiting_for(pod: Pod) -> tuple[str, str]:
    """Return what keeps a pod from starting, as far as its status says: the error's name, and a text."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") != "True":
            return "Unschedulable", said_of(condition) or "no node takes it"
    if (running := _running_init_container(pod)) is not None:
        name, since = running
        return NO_CLASS, f"Init container {name} has not ended: it has been running since {since}"
    waiting = list(waiting_containers(pod))
    waiting.sort(key=lambda each: each[1].get("reason") in _EXPLAINS_NOTHING)
    for name, state in waiting:
        reason = state.get("reason") or "Waiting"
        return _TROUBLE.get(reason, NO_CLASS), f"Container {name}: {said_of(state) or reason}"
    phase = status.get("phase") or "Pending"
    return NO_CLASS, said_of(status) or f"it is {phase}, and the cluster does not say why"


def hanging_init_container(pod: Pod) -> str | None:
    """Return the name of the init container that the others wait for, if there is one."""
    running = _running_init_container(pod)
    return None if running is None else running[0]


def with_events(late: Exit, events: Iterable[Mapping[str, Any]], *, own_secret: str) -> Exit:
    """Return the end of a pod that did not start in time, with what its events say of it.

    :param events: of the pod, as JSON, in any order
    :param own_secret: name of the job's Secret, which comes after the pod: that it is missing at first is
        no reason
    """
    told = _newest(events, f'secret "{own_secret}" not found')
    if not told:
        return late
    text = "; ".join(told)
    name = "CreateContainerConfigError" if _ABSENT.search(text) else late.reason
    return replace(late, reason=name, message=f"{late.message}: {text}")


def without_events(late: Exit, why: str) -> Exit:
    """Return the end of a pod that did not start in time, whose events cannot be read."""
    hint = "the pod's events say more, but Airflow cannot read them: see docs/kubernetes/rbac.yaml"
    return replace(late, message=f"{late.message} ({hint}; {why})")


def waiting_containers(pod: Pod) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of each container that waits, init containers first, and what its state says."""
    status = pod.get("status") or {}
    for kind in ("initContainerStatuses", "containerStatuses"):
        for each in status.get(kind) or ():
            waiting = (each.get("state") or {}).get("waiting")
            if waiting:
                yield each["name"], waiting


def _running_init_container(pod: Pod) -> tuple[str, str] | None:
    """Return the init container that runs, and since when. They run one by one, sidecars apart."""
    declared = (pod.get("spec") or {}).get("initContainers") or ()
    sidecars = {each["name"] for each in declared if each.get("restartPolicy") == "Always"}
    for each in (pod.get("status") or {}).get("initContainerStatuses") or ():
        running = (each.get("state") or {}).get("running")
        if running is not None and each["name"] not in sidecars:
            return each["name"], running.get("startedAt") or "an unknown time"
    return None


def _newest(events: Iterable[Mapping[str, Any]], ignored: str) -> list[str]:
    """Return the newest warnings, each text once, and before them that an image is being pulled."""
    newest_first = sorted(events, key=_moment_of, reverse=True)
    told = [
        f"{event.get('reason')}: {said_of(event)}"
        for index, event in enumerate(newest_first)
        if _is_warning(event, ignored) or (index == 0 and event.get("reason") == "Pulling")
    ]
    return list(dict.fromkeys(told))[:_MOST_EVENTS]


def _is_warning(event: Mapping[str, Any], ignored: str) -> bool:
    """Tell whether an event says what keeps the pod from starting."""
    is_idle = event.get("reason") in _NO_REASONS or ignored in said_of(event)
    return event.get("type") == "Warning" and not is_idle


def _moment_of(event: Mapping[str, Any]) -> str:
    """Return when an event happened last. Its fields depend on who told it; all are UTC in one format."""
    series = event.get("series") or {}
    moments = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        (event.get("metadata") or {}).get("creationTimestamp"),
    )
    return next((str(moment) for moment in moments if moment), "")
