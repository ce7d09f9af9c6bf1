# SPDX-License-Identifier: Apache-2.0
"""Pods that do not start: the cluster's reason becomes a named error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_asyncaction import exceptions
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.pods.exit_status import trim_pod
from airflow_asyncaction.runners.pods.lifecycle import PodLifecycle
from airflow_asyncaction.runners.pods.startup import (
    add_events,
    describe_waiting,
    find_running_init_container,
    note_unreadable_events,
)

NOW = datetime(2026, 11, 24, 16, 0, tzinfo=UTC)
LATE = Exit(reason="PodFailed", message="The pod did not start in time: Container base: ContainerCreating")
DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}
RUNS = {"running": {"startedAt": "2026-11-24T15:58:00Z"}}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def pending(
    base: dict[str, Any], *, init: dict[str, dict[str, Any]] | None = None, sidecars: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return a pod that has a node, and whose base container waits."""
    status: dict[str, Any] = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [{"name": "base", "state": base}],
    }
    if init:
        status["initContainerStatuses"] = [{"name": name, "state": state} for name, state in init.items()]
    declared = [
        {"name": name, "restartPolicy": "Always" if name in sidecars else None} for name in init or {}
    ]
    return {"metadata": {"name": "p"}, "spec": {"initContainers": declared}, "status": status}


def event(reason: str, message: str, at: str = "2026-11-24T15:59:00Z", **more: Any) -> dict[str, Any]:
    return {"type": "Warning", "reason": reason, "message": message, "lastTimestamp": at, **more}


def late_end(pod: dict[str, Any]) -> tuple[PodLifecycle, Exit]:
    lifecycle = PodLifecycle("base", start_by=NOW)
    exit_ = lifecycle.observe("MODIFIED", pod, NOW + timedelta(seconds=1))
    assert exit_ is not None
    assert lifecycle.is_stuck
    return lifecycle, exit_


@pytest.mark.parametrize(
    ("pod", "name", "text"),
    [
        (pending(waits("ContainerCreating")), "PodFailed", "Container base: ContainerCreating"),
        (pending(waits("PodInitializing")), "PodFailed", "Container base: PodInitializing"),
        (pending(waits("NewInTheNextRelease", "hm")), "PodFailed", "Container base: hm"),
        (
            pending(waits("ImagePullBackOff", "429 too many requests")),
            "ImagePull",
            "Container base: 429 too many requests",
        ),
        (
            pending(waits("PodInitializing"), init={"first": DONE, "prepare": RUNS}),
            "PodFailed",
            "Init container prepare has not ended: it has been running since 2026-11-24T15:58:00Z",
        ),
        (
            pending(waits("PodInitializing"), init={"proxy": RUNS, "prepare": RUNS}, sidecars=("proxy",)),
            "PodFailed",
            "Init container prepare has not ended: it has been running since 2026-11-24T15:58:00Z",
        ),
        (
            pending(waits("PodInitializing"), init={"proxy": RUNS}, sidecars=("proxy",)),
            "PodFailed",
            "Container base: PodInitializing",
        ),
        (
            pending(waits("PodInitializing"), init={"prepare": waits("Strange", "no sandbox")}),
            "PodFailed",
            "Container prepare: no sandbox",
        ),
        (
            {
                "metadata": {"name": "p"},
                "status": {
                    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulerError"}]
                },
            },
            "Unschedulable",
            "no node accepts it",
        ),
        ({"metadata": {"name": "p"}}, "PodFailed", "it is Pending, and the cluster gives no reason"),
    ],
)
def test_a_late_pod_is_reported_by_a_named_exception(pod: dict[str, Any], name: str, text: str) -> None:
    assert describe_waiting(pod) == describe_waiting(trim_pod(pod)) == (name, text)
    assert issubclass(getattr(exceptions, name), exceptions.PodFailed)
    lifecycle, exit_ = late_end(pod)
    assert exit_ == Exit(reason=name, message=f"The pod did not start in time: {text}")
    assert lifecycle.needs_events == (name == "PodFailed" and "has not ended" not in text)


def test_the_init_container_that_hangs_is_the_one_to_be_read() -> None:
    pod = pending(waits("PodInitializing"), init={"first": DONE, "prepare": RUNS})
    assert find_running_init_container(pod) == "prepare"
    assert late_end(pod)[0].blamed_init_container == "prepare"
    for other in (pending(waits("ContainerCreating")), pending(RUNS, init={"first": DONE})):
        assert find_running_init_container(other) is None
    assert PodLifecycle("base").blamed_init_container is None


def test_an_init_container_that_hangs_is_not_the_image_that_was_pulled_before() -> None:
    lifecycle = PodLifecycle("base", start_by=NOW)
    pulling = pending(
        waits("PodInitializing"), init={"prepare": waits("ErrImagePull", "429 too many requests")}
    )
    assert lifecycle.observe("MODIFIED", pulling, NOW - timedelta(minutes=1)) is None
    hangs = pending(waits("PodInitializing"), init={"prepare": RUNS})
    exit_ = lifecycle.observe("MODIFIED", hangs, NOW)
    assert exit_ is not None
    assert exit_.reason == "PodFailed"
    assert "prepare has not ended" in (exit_.message or "")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (
            'MountVolume.SetUp failed for volume "v" : configmap "absent" not found',
            "CreateContainerConfigError",
        ),
        ('MountVolume.SetUp failed for volume "v" : secret "absent" not found', "CreateContainerConfigError"),
        (
            'MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: nope',
            "CreateContainerConfigError",
        ),
        (
            'MountVolume.SetUp failed for volume "v" : references non-existent secret key: nope',
            "CreateContainerConfigError",
        ),
        (
            'MountVolume.SetUp failed for volume "v" : hostPath type check failed: /x is not a directory',
            "PodFailed",
        ),
        ('MountVolume.SetUp failed for volume "v" : object "n"/"absent" not registered', "PodFailed"),
    ],
)
def test_events_say_why_a_volume_is_not_mounted(said: str, name: str) -> None:
    exit_ = add_events(LATE, [event("FailedMount", said)], own_secret="p")
    assert exit_ == Exit(reason=name, message=f"{LATE.message}: FailedMount: {said}")


def test_the_newest_warnings_come_first_and_each_once() -> None:
    events = [
        event("FailedMount", "one", "2026-11-24T15:57:00Z"),
        event("FailedMount", "two", "2026-11-24T15:59:00Z"),
        event("FailedMount", "two", "2026-11-24T15:56:00Z"),
        {"type": "Warning", "reason": "Odd", "message": "three", "eventTime": "2026-11-24T15:58:00.000000Z"},
        event("FailedMount", "oldest", "2026-11-24T15:50:00Z"),
        event("FailedScheduling", "no node", "2026-11-24T15:59:30Z"),
        event("MissingClusterDNS", "kubelet has no DNS", "2026-11-24T15:59:40Z"),
        {"type": "Normal", "reason": "Scheduled", "message": "fine"},
    ]
    message = add_events(LATE, events, own_secret="p").message
    assert message == f"{LATE.message}: FailedMount: two; Odd: three; FailedMount: one"


def test_that_the_jobs_own_secret_came_later_is_no_reason() -> None:
    own, other = 'Error: secret "p" not found', 'Error: secret "pp" not found'
    assert add_events(LATE, [event("Failed", own)], own_secret="p") == LATE
    assert add_events(LATE, [event("Failed", other)], own_secret="p").reason == "CreateContainerConfigError"


def test_an_image_that_is_still_being_pulled_is_reported() -> None:
    pulling = {
        "type": "Normal",
        "reason": "Pulling",
        "message": 'Pulling image "large:1"',
        "lastTimestamp": "2026-11-24T15:58:00Z",
    }
    assert add_events(LATE, [pulling], own_secret="p").message == (
        f'{LATE.message}: Pulling: Pulling image "large:1"'
    )
    pulled = {**pulling, "reason": "Pulled", "lastTimestamp": "2026-11-24T15:58:30Z"}
    assert add_events(LATE, [pulling, pulled], own_secret="p") == LATE


def test_a_pod_without_warnings_ends_as_before() -> None:
    nothing: tuple[list[dict[str, Any]], ...] = (
        [],
        [{"type": "Normal", "reason": "Scheduled", "message": "fine"}],
        [{}],
    )
    for events in nothing:
        assert add_events(LATE, events, own_secret="p") == LATE


REASONS = st.sampled_from(
    [
        "",
        "OOMKilled",
        "Error",
        "Completed",
        "ContainerCreating",
        "ErrImagePull",
        "PodInitializing",
        "StartError",
    ]
) | st.text(max_size=20)
STATES = st.one_of(
    st.builds(waits, REASONS, st.text(max_size=20)),
    st.just(RUNS),
    st.builds(
        lambda code, reason: {"terminated": {"exitCode": code, "reason": reason}},
        st.integers(0, 255),
        REASONS,
    ),
)


@given(
    base=STATES,
    init=STATES,
    phase=st.sampled_from(["Pending", "Running", "Failed", "Succeeded", "Unknown"]),
    reason=REASONS,
    scheduled=st.sampled_from(["True", "False"]),
    event_kind=st.sampled_from(["MODIFIED", "DELETED", ""]),
    is_deleted=st.booleans(),
)
def test_whatever_a_cluster_says_an_end_is_named_by_an_exception(
    base: dict[str, Any],
    init: dict[str, Any],
    phase: str,
    reason: str,
    scheduled: str,
    event_kind: str,
    is_deleted: bool,
) -> None:
    pod = pending(base, init={"prepare": init})
    pod["status"] |= {"phase": phase, "reason": reason}
    pod["status"]["conditions"] = [{"type": "PodScheduled", "status": scheduled, "reason": reason}]
    if is_deleted:
        pod["metadata"]["deletionTimestamp"] = "2026-11-24T16:00:00Z"
    lifecycle = PodLifecycle("base", start_by=NOW)
    exit_ = lifecycle.observe(event_kind, pod, NOW + timedelta(seconds=1))
    if exit_ is not None and exit_.reason is not None:
        assert issubclass(getattr(exceptions, exit_.reason), exceptions.PodFailed)
        assert exit_.message


def test_unreadable_events_are_reported_with_a_solution() -> None:
    exit_ = note_unreadable_events(LATE, "events is forbidden")
    assert exit_.reason == "PodFailed"
    for part in (LATE.message or "", "events is forbidden", "rbac.yaml"):
        assert part in (exit_.message or "")
