# SPDX-License-Identifier: Apache-2.0
"""Startup of a pod: why it does not start, according to its status and its events. No I/O.

Each reason is an :class:`Exit` named after an exception class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.pods.exit_status import Pod, get_message

UNCLASSIFIED = "PodFailed"
"""Name of an exit that has no exception class of its own."""

_FAILURES = {
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
# Failures of a registry (as KubernetesPodOperator lists them) or of a busy node that may resolve themselves
# before ``start_timeout`` expires.
_TRANSIENT: Mapping[str, tuple[str, ...]] = {
    "ImagePull": (
        "pull qps exceeded", "rate limit", "too many requests", "toomanyrequests", "temporarily unavailable",
        "timeout", "bad gateway", "service unavailable", "gateway timeout",
    ),
    "CreateContainerConfigError": ("failed to sync", "timed out", "context deadline exceeded"),
    "StartError": ("timed out", "context deadline exceeded", "failed to reserve container name"),
}  # fmt: skip
_EXPLAINS_NOTHING = frozenset({"PodInitializing", "ContainerCreating"})
_MAX_EVENTS = 3
# FailedScheduling is obsolete once a node has accepted the pod. Pods also run without the cluster's DNS.
_IRRELEVANT_EVENTS = frozenset({"FailedScheduling", "MissingClusterDNS"})
_MISSING = re.compile(
    r'\b(?:config ?maps?|secrets?) "[^"]+" not found|references non-existent (?:config|secret) key',
    re.IGNORECASE,
)


def find_start_failure(pod: Pod) -> Exit | None:
    """Return why a pod will never start as it is; ``None`` if it may.

    Kubernetes itself never gives up. A pod that no node accepts now may be scheduled later, so this is not a
    failure; :func:`describe_waiting` reports it.
    """
    for name, waiting in list_waiting_containers(pod):
        reason = waiting.get("reason") or ""
        if reason in _FAILURES:
            return Exit(
                reason=_FAILURES[reason], message=f"Container {name}: {get_message(waiting) or reason}"
            )
    return None


def may_recover(failure: Exit) -> bool:
    """Return whether a failure may resolve itself."""
    text = (failure.message or "").lower()
    return any(each in text for each in _TRANSIENT.get(failure.reason or "", ()))


def describe_waiting(pod: Pod) -> tuple[str, str]:
    """Return the error name and a description of what a pod waits for, according to its status."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") != "True":
            return "Unschedulable", get_message(condition) or "no node accepts it"
    if (running := _running_init_container(pod)) is not None:
        name, since = running
        return UNCLASSIFIED, f"Init container {name} has not ended: it has been running since {since}"
    waiting = list(list_waiting_containers(pod))
    waiting.sort(key=lambda each: each[1].get("reason") in _EXPLAINS_NOTHING)
    for name, state in waiting:
        reason = state.get("reason") or "Waiting"
        return _FAILURES.get(reason, UNCLASSIFIED), f"Container {name}: {get_message(state) or reason}"
    phase = status.get("phase") or "Pending"
    return UNCLASSIFIED, get_message(status) or f"it is {phase}, and the cluster gives no reason"


def find_running_init_container(pod: Pod) -> str | None:
    """Return the name of the init container that is running, if there is one: the others wait for it."""
    running = _running_init_container(pod)
    return None if running is None else running[0]


def add_events(exit_: Exit, events: Iterable[Mapping[str, Any]], *, own_secret: str) -> Exit:
    """Return the exit of a pod that did not start in time, with the messages of its events.

    :param events: of the pod, as JSON, in any order
    :param own_secret: name of the job's Secret. It is created after the pod, so it is normal that it is
        missing at first
    """
    messages = _select_newest(events, f'secret "{own_secret}" not found')
    if not messages:
        return exit_
    text = "; ".join(messages)
    name = "CreateContainerConfigError" if _MISSING.search(text) else exit_.reason
    return replace(exit_, reason=name, message=f"{exit_.message}: {text}")


def note_unreadable_events(exit_: Exit, why: str) -> Exit:
    """Return the exit of a pod that did not start in time, and whose events cannot be read."""
    hint = "the pod's events say more, but Airflow cannot read them: see docs/kubernetes/rbac.yaml"
    return replace(exit_, message=f"{exit_.message} ({hint}; {why})")


def list_waiting_containers(pod: Pod) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name and waiting state of each waiting container, init containers first."""
    status = pod.get("status") or {}
    for kind in ("initContainerStatuses", "containerStatuses"):
        for each in status.get(kind) or ():
            waiting = (each.get("state") or {}).get("waiting")
            if waiting:
                yield each["name"], waiting


def _running_init_container(pod: Pod) -> tuple[str, str] | None:
    """Return the running init container, and since when. Except for sidecars, they run one by one."""
    declared = (pod.get("spec") or {}).get("initContainers") or ()
    sidecars = {each["name"] for each in declared if each.get("restartPolicy") == "Always"}
    for each in (pod.get("status") or {}).get("initContainerStatuses") or ():
        running = (each.get("state") or {}).get("running")
        if running is not None and each["name"] not in sidecars:
            return each["name"], running.get("startedAt") or "an unknown time"
    return None


def _select_newest(events: Iterable[Mapping[str, Any]], ignored: str) -> list[str]:
    """Return the newest warnings, each text once, after a newest event that an image is being pulled."""
    newest_first = sorted(events, key=_last_observed_at, reverse=True)
    messages = [
        f"{event.get('reason')}: {get_message(event)}"
        for index, event in enumerate(newest_first)
        if _is_warning(event, ignored) or (index == 0 and event.get("reason") == "Pulling")
    ]
    return list(dict.fromkeys(messages))[:_MAX_EVENTS]


def _is_warning(event: Mapping[str, Any], ignored: str) -> bool:
    """Return whether an event says what keeps the pod from starting."""
    is_irrelevant = event.get("reason") in _IRRELEVANT_EVENTS or ignored in get_message(event)
    return event.get("type") == "Warning" and not is_irrelevant


def _last_observed_at(event: Mapping[str, Any]) -> str:
    """Return when an event last happened. The field depends on the reporter; all are UTC in one format."""
    series = event.get("series") or {}
    moments = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        (event.get("metadata") or {}).get("creationTimestamp"),
    )
    return next((str(moment) for moment in moments if moment), "")
