# SPDX-License-Identifier: Apache-2.0
"""Exit status of pods, from recorded statuses of a real cluster (vectors/pods)."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_asyncaction import exceptions
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.pods.exit_status import (
    add_tail,
    find_failed_init_container,
    find_warning,
    has_container_started,
    list_ended_init_containers,
    read_exit,
    should_keep_pod,
    trim_pod,
)
from airflow_asyncaction.runners.pods.lifecycle import PodLifecycle
from airflow_asyncaction.runners.pods.startup import describe_waiting, find_start_failure

VECTORS = Path(__file__).parent.parent / "vectors" / "pods"
NOW = datetime(2026, 11, 24, 16, 0, tzinfo=UTC)

ENDS: dict[str, dict[str, Any]] = {
    "success": {"code": 0},
    "exit-3": {"code": 3, "message": "why"},
    "oom": {"code": 137, "reason": "OOMKilled"},
    "evicted": {
        "reason": "Evicted",
        "message": 'Usage of EmptyDir volume "scratch" exceeds the limit "5Mi".',
    },
    "deadline": {
        "reason": "DeadlineExceeded",
        "message": "Pod was active on the node longer than the specified deadline",
    },
    "no-command": {"code": 128, "reason": "StartError"},
    "init-fails": {"code": 7, "reason": "InitContainerFailed"},
    "sidecar": {"code": 0},
    "sidecar-failed": {"code": 4},
    "deleted": {"code": 137, "reason": "PodDeleted"},
    "deleted-clean": {"code": 0},
    "restarted": {"code": 5},
    "child-oom": {"code": 0},
    "child-oom-fails": {
        "code": 3,
        "reason": "OOMKilled",
        "message": "A process of the container exceeded the memory limit and was killed:"
        " the container exited with code 3: bad rows",
    },
    "fallback-to-logs": {"code": 12, "message": "\n".join(str(number) for number in range(1, 31))},
    "init-says-why": {
        "code": 7,
        "reason": "InitContainerFailed",
        "message": "Init container prepare exited with code 7: no db",
    },
}
TROUBLES = {
    "no-image-first": ("ImagePull", "not found"),
    "no-image": ("ImagePull", "Back-off"),
    "bad-image": ("InvalidImageName", "must be lowercase"),
    "missing-secret": ("CreateContainerConfigError", 'secret "nope" not found'),
    "waits-for-own-secret": ("CreateContainerConfigError", "not found"),
}
GO_ON = ("running", "unschedulable", "deleted-unscheduled", "init-hangs", "absent-volume")


def _pod(name: str) -> dict[str, Any]:
    pod: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return pod


def _deleted(pod: dict[str, Any], until: datetime) -> dict[str, Any]:
    pod["metadata"]["deletionTimestamp"] = f"{until:%Y-%m-%dT%H:%M:%SZ}"
    return pod


def _disrupted(pod: dict[str, Any], reason: str) -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": f"by {reason}"}
    pod["status"]["conditions"] = [condition]
    return pod


def test_every_vector_is_tried() -> None:
    assert {file.stem for file in VECTORS.iterdir()} == {*ENDS, *TROUBLES, *GO_ON}


@pytest.mark.parametrize("name", ENDS)
def test_an_end_is_named(name: str) -> None:
    exit_ = read_exit(_pod(name), "base")
    assert exit_ is not None
    expected = ENDS[name]
    found = {key: getattr(exit_, key) for key in ("code", "signal", "reason")}
    assert found == {key: expected.get(key) for key in found}
    assert exit_.is_seen
    if "message" in expected:
        assert exit_.message == expected["message"]
    if exit_.reason:
        assert exit_.message
        assert issubclass(getattr(exceptions, exit_.reason), exceptions.PodFailed)


@pytest.mark.parametrize("name", [*TROUBLES, *GO_ON])
def test_what_goes_on_has_no_end(name: str) -> None:
    assert read_exit(_pod(name), "base") is None


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_is_told_in_the_clusters_words(name: str) -> None:
    exit_ = find_start_failure(_pod(name))
    reason, part = TROUBLES[name]
    assert exit_ is not None
    assert exit_.reason == reason
    assert part in (exit_.message or "")
    assert issubclass(getattr(exceptions, reason), exceptions.PodFailed)


@pytest.mark.parametrize("name", ["running", "unschedulable", "success", "deleted"])
def test_no_trouble_where_there_is_none(name: str) -> None:
    assert find_start_failure(_pod(name)) is None


def test_what_a_pod_waits_for() -> None:
    name, text = describe_waiting(_pod("init-hangs"))
    assert name == "PodFailed"
    assert text.startswith("Init container prepare has not ended: it has been running since 2026-11-28T")
    assert describe_waiting(_pod("absent-volume")) == ("PodFailed", "Container base: ContainerCreating")
    name, text = describe_waiting(_pod("unschedulable"))
    assert (name, text) == ("Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.")
    for unknown in ({"status": {"phase": "Pending"}}, {}):
        assert describe_waiting(unknown) == ("PodFailed", "it is Pending, and the cluster gives no reason")


@pytest.mark.parametrize("name", [*ENDS, *TROUBLES, *GO_ON])
def test_a_trimmed_pod_says_the_same(name: str) -> None:
    pod = _pod(name)
    small = trim_pod(pod)
    assert read_exit(small, "base") == read_exit(pod, "base")
    assert find_start_failure(small) == find_start_failure(pod)
    assert describe_waiting(small) == describe_waiting(pod)
    assert has_container_started(small, "base") == has_container_started(pod, "base")
    assert trim_pod(small) == small


def test_a_trimmed_pod_has_no_foreign_labels_and_no_spec() -> None:
    labels = {"asyncaction/action": "x", "foreign": "y"}
    pod = {"metadata": {"name": "p", "labels": labels}, "spec": {"nodeName": "n", "containers": [1]}}
    small = trim_pod(pod)
    assert small["metadata"] == {"name": "p", "labels": {"asyncaction/action": "x"}}
    assert small["spec"] == {"nodeName": "n"}


@pytest.mark.parametrize(("code", "signal"), [(137, "SIGKILL"), (143, "SIGTERM"), (200, None)])
def test_a_code_above_128_is_a_signal(code: int, signal: str | None) -> None:
    pod = _pod("exit-3")
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] = code
    exit_ = read_exit(pod, "base")
    assert exit_ is not None
    assert (exit_.code, exit_.signal) == (code, signal)


def test_a_story_has_one_end() -> None:
    lifecycle = PodLifecycle("base")
    assert lifecycle.observe("ADDED", _pod("running"), NOW) is None
    assert lifecycle.has_started
    end = lifecycle.observe("MODIFIED", _pod("exit-3"), NOW)
    assert end is not None
    assert lifecycle.observe("DELETED", _pod("deleted"), NOW) == end


def test_the_cause_of_a_pull_error_is_kept_when_the_cluster_forgets_it() -> None:
    lifecycle = PodLifecycle("base", start_by=NOW + timedelta(minutes=1))
    first = _pod("no-image-first")
    waiting = first["status"]["containerStatuses"][0]["state"]["waiting"]
    waiting["message"] = "429 Too Many Requests"
    assert lifecycle.observe("MODIFIED", first, NOW) is None  # it may pass
    assert lifecycle.observe("MODIFIED", _pod("no-image"), NOW) is None
    late = lifecycle.observe("", None, NOW + timedelta(minutes=1))
    assert late is not None
    assert late.reason == "ImagePull"
    assert "429 Too Many Requests" in (late.message or "")
    assert lifecycle.is_stuck


def test_a_missing_image_is_reported_immediately() -> None:
    exit_ = PodLifecycle("base").observe("MODIFIED", _pod("no-image-first"), NOW)
    assert exit_ is not None
    assert exit_.reason == "ImagePull"


def test_a_pod_waits_for_the_jobs_secret_but_not_for_another() -> None:
    lifecycle = PodLifecycle("base")
    own = _pod("waits-for-own-secret")
    assert lifecycle.observe("MODIFIED", own, NOW) is None
    assert lifecycle.observe("", None, NOW + timedelta(hours=1)) is None
    lifecycle.note_secret()
    later = NOW + timedelta(hours=2)
    assert lifecycle.observe("MODIFIED", own, later) is None  # the node looks again soon
    exit_ = lifecycle.observe("", None, later + timedelta(minutes=4))
    assert exit_ is not None
    assert exit_.reason == "CreateContainerConfigError"
    other = PodLifecycle("base").observe("MODIFIED", _pod("missing-secret"), NOW)
    assert other is not None
    assert other.reason == "CreateContainerConfigError"


@pytest.mark.parametrize(
    "message",
    ["failed to sync secret cache: timed out waiting for the condition", "context deadline exceeded"],
)
def test_what_a_busy_node_says_may_pass(message: str) -> None:
    pod = _pod("missing-secret")
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"] = message
    lifecycle = PodLifecycle("base", start_by=NOW + timedelta(minutes=1), has_secret=True)
    assert lifecycle.observe("MODIFIED", pod, NOW) is None
    late = lifecycle.observe("", None, NOW + timedelta(minutes=1))
    assert late is not None
    assert (late.reason, message in (late.message or "")) == ("CreateContainerConfigError", True)


@pytest.mark.parametrize(
    ("on_finish", "succeeded", "kept"),
    [
        ("delete_pod", False, False),
        ("keep_pod", True, True),
        ("delete_active_pod", True, True),
        ("delete_succeeded_pod", True, False),
        ("delete_succeeded_pod", False, True),
    ],
)
def test_a_pod_that_has_ended_may_be_kept(on_finish: str, succeeded: bool, kept: bool) -> None:
    assert should_keep_pod(on_finish, succeeded=succeeded) is kept


def test_a_pod_that_no_node_takes_ends_at_its_deadline() -> None:
    lifecycle = PodLifecycle("base", start_by=NOW + timedelta(seconds=5))
    assert lifecycle.observe("ADDED", _pod("unschedulable"), NOW + timedelta(seconds=4)) is None
    exit_ = lifecycle.observe("", None, NOW + timedelta(seconds=5))
    assert exit_ is not None
    assert exit_.reason == "Unschedulable"
    assert "1 Insufficient cpu" in (exit_.message or "")
    assert lifecycle.is_stuck


def test_the_deadline_is_for_the_start_alone() -> None:
    lifecycle = PodLifecycle("base", start_by=NOW)
    assert lifecycle.observe("ADDED", _pod("running"), NOW + timedelta(hours=1)) is None
    assert not lifecycle.is_stuck


@pytest.mark.parametrize("name", ["running", "unschedulable", "deleted-unscheduled"])
def test_a_pod_that_vanishes_was_deleted_unseen(name: str) -> None:
    exit_ = PodLifecycle("base").observe("DELETED", _pod(name), NOW)
    assert exit_ is not None
    assert (exit_.reason, exit_.is_seen) == ("PodDeleted", False)


def test_a_pod_that_was_never_seen_was_deleted_unseen() -> None:
    exit_ = PodLifecycle("base").observe("DELETED", None, NOW)
    assert exit_ is not None
    assert (exit_.reason, exit_.is_seen) == ("PodDeleted", False)


def test_a_deleted_pod_may_end_by_itself() -> None:
    lifecycle = PodLifecycle("base")
    assert lifecycle.observe("MODIFIED", _deleted(_pod("running"), NOW + timedelta(seconds=10)), NOW) is None
    assert lifecycle.observe("DELETED", _pod("deleted-clean"), NOW) == Exit(code=0)


def test_a_pod_that_we_delete_ends_as_its_container_does() -> None:
    lifecycle = PodLifecycle("base")
    lifecycle.observe("ADDED", _pod("running"), NOW)
    lifecycle.expect_deletion()
    exit_ = lifecycle.observe("MODIFIED", _pod("deleted"), NOW)
    assert exit_ is not None
    assert (exit_.code, exit_.signal, exit_.reason) == (137, "SIGKILL", None)


def test_a_pod_whose_node_does_not_answer_is_lost() -> None:
    lifecycle = PodLifecycle("base")
    pod = _deleted(_pod("running"), NOW)
    assert lifecycle.observe("MODIFIED", pod, NOW + timedelta(seconds=29)) is None
    exit_ = lifecycle.observe("", None, NOW + timedelta(seconds=31))
    assert exit_ is not None
    assert exit_.reason == "NodeLost"


def test_older_clusters_say_that_a_node_is_lost() -> None:
    pod = _pod("running")
    pod["status"]["reason"] = "NodeLost"
    exit_ = read_exit(pod, "base")
    assert exit_ is not None
    assert exit_.reason == "NodeLost"


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("EvictionByEvictionAPI", "Evicted"),
        ("PreemptionByScheduler", "Evicted"),
        ("DeletionByTaintManager", "Evicted"),
        ("DeletionByPodGC", "NodeLost"),
    ],
)
def test_newer_clusters_say_why_they_take_a_pod_away(reason: str, name: str) -> None:
    ended = read_exit(_disrupted(_pod("deleted"), reason), "base")
    assert ended is not None
    assert (ended.reason, ended.message) == (name, f"by {reason} (exit code 137)")


def test_a_pod_that_vanishes_with_its_node_is_lost() -> None:
    pod = _disrupted(_deleted(copy.deepcopy(_pod("running")), NOW), "DeletionByPodGC")
    exit_ = PodLifecycle("base").observe("DELETED", pod, NOW)
    assert exit_ is not None
    assert (exit_.reason, exit_.is_seen) == ("NodeLost", False)


def test_a_later_container_of_the_same_pod_is_not_waited_for() -> None:
    pod = _pod("running")
    pod["status"]["containerStatuses"][0]["lastState"] = {"terminated": {"exitCode": 9, "reason": "Error"}}
    exit_ = read_exit(pod, "base")
    assert exit_ is not None
    assert exit_.code == 9


def _ended(code: int, reason: str = "Error", said: str = "") -> dict[str, Any]:
    """Return a pod whose base container has ended."""
    terminated = {"exitCode": code, "reason": reason, "message": said}
    return {
        "metadata": {"name": "p"},
        "status": {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "base", "state": {"terminated": terminated}}],
        },
    }


@pytest.mark.parametrize(
    ("pod", "exit_"),
    [
        (_ended(0, "OOMKilled"), Exit(code=0)),
        (_ended(0, "OOMKilled", "said"), Exit(code=0, message="said")),
        (_ended(0, "Completed", "said"), Exit(code=0, message="said")),
        (_ended(12, said="bad input\n"), Exit(code=12, message="bad input")),
        (_ended(143, said="bye"), Exit(code=143, signal="SIGTERM", message="bye")),
        (
            _ended(137, "OOMKilled"),
            Exit(
                code=137,
                reason="OOMKilled",
                message="The container exceeded its memory limit and was killed",
            ),
        ),
        (
            _ended(137, "OOMKilled", "said"),
            Exit(
                code=137,
                reason="OOMKilled",
                message="The container exceeded its memory limit and was killed: said",
            ),
        ),
        (
            _ended(3, "OOMKilled", "bad rows"),
            Exit(
                code=3,
                reason="OOMKilled",
                message="A process of the container exceeded the memory limit and was killed:"
                " the container exited with code 3: bad rows",
            ),
        ),
        (
            _ended(137, "ContainerStatusUnknown", "The container could not be located"),
            Exit(
                code=137,
                reason="PodFailed",
                message="ContainerStatusUnknown: The container could not be located",
            ),
        ),
    ],
)
def test_the_exit_code_goes_first_and_nothing_is_lost_beside_it(pod: dict[str, Any], exit_: Exit) -> None:
    assert read_exit(pod, "base") == exit_


def test_a_container_that_ended_well_though_a_child_was_killed_is_warned_of() -> None:
    warning = find_warning(_ended(0, "OOMKilled"), "base")
    assert warning is not None
    assert "OOMKilled" in warning
    lifecycle = PodLifecycle("base")
    lifecycle.observe("MODIFIED", _pod("child-oom"), NOW)
    assert lifecycle.warning == warning
    for pod in (_ended(0, "Completed"), _ended(137, "OOMKilled"), _pod("running"), {}):
        assert find_warning(pod, "base") is None


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("Evicted", "Evicted"),
        ("Preempting", "Evicted"),
        ("Shutdown", "Evicted"),
        ("NodeShutdown", "Evicted"),
        ("Terminated", "Evicted"),
        ("DeadlineExceeded", "DeadlineExceeded"),
        ("NodeLost", "NodeLost"),
        ("OutOfcpu", "PodFailed"),
        ("NodeAffinity", "PodFailed"),
        ("UnexpectedAdmissionError", "PodFailed"),
        ("WhateverComesNext", "PodFailed"),
    ],
)
@pytest.mark.parametrize("said", ["as its node says", ""])
def test_what_a_pod_says_of_itself_has_a_class_and_is_told(reason: str, name: str, said: str) -> None:
    pod = {"metadata": {"name": "p"}, "status": {"phase": "Failed", "reason": reason, "message": said}}
    exit_ = read_exit(pod, "base")
    assert exit_ is not None
    assert exit_.reason == name
    assert issubclass(getattr(exceptions, name), exceptions.PodFailed)
    assert said in (exit_.message or "")
    assert reason == name or (exit_.message or "").startswith(f"{reason}: ")


def test_a_pod_that_was_deleted_tells_its_exit_code_and_its_last_words() -> None:
    pod = _deleted(_ended(143, said="bye"), NOW)
    exit_ = read_exit(pod, "base")
    assert exit_ is not None
    assert exit_.message == "The pod was deleted while its container was running (exit code 143): bye"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"exitCode": 7, "reason": "Error"}, "Init container prepare exited with code 7"),
        (
            {"exitCode": 7, "reason": "Error", "message": "no db\n"},
            "Init container prepare exited with code 7: no db",
        ),
        ({"exitCode": 137, "reason": "OOMKilled"}, "Init container prepare exited with code 137 (OOMKilled)"),
    ],
)
def test_a_failed_init_container_is_named_with_code_and_last_words(
    state: dict[str, Any], message: str
) -> None:
    pod = _pod("init-fails")
    pod["status"]["initContainerStatuses"][0]["state"]["terminated"] = state
    assert read_exit(pod, "base") == Exit(
        code=state["exitCode"], reason="InitContainerFailed", message=message
    )
    assert find_failed_init_container(pod) == find_failed_init_container(trim_pod(pod)) == "prepare"
    lifecycle = PodLifecycle("base")
    lifecycle.observe("MODIFIED", pod, NOW)
    assert lifecycle.blamed_init_container == "prepare"


def test_a_side_car_among_the_init_containers_is_not_blamed() -> None:
    pod = _pod("init-fails")
    sidecar = {"name": "proxy", "state": {"terminated": {"exitCode": 143, "reason": "Error"}}}
    pod["status"]["initContainerStatuses"].insert(0, sidecar)
    pod["spec"] = {"initContainers": [{"name": "proxy", "restartPolicy": "Always", "image": "p"}]}
    assert find_failed_init_container(pod) == find_failed_init_container(trim_pod(pod)) == "prepare"


def test_init_containers_that_have_ended_have_a_log_to_be_copied() -> None:
    done = {"terminated": {"exitCode": 0}}
    states = {"first": done, "second": done, "third": {"running": {}}, "fourth": {"waiting": {}}, "fifth": {}}
    statuses = [{"name": name, "state": state} for name, state in states.items()]
    pod = {"metadata": {}, "status": {"initContainerStatuses": statuses}}
    for each in (pod, trim_pod(pod)):
        assert list_ended_init_containers(each, True) == ["first", "second"]
        assert list_ended_init_containers(each, ["second", "third", "absent"]) == ["second"]
        assert list_ended_init_containers(each, False) == list_ended_init_containers(each, []) == []
    assert list_ended_init_containers({}, True) == []


def _numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


LONG = [f"{number}-{'x' * 100}" for number in range(30)]
ENDED = Exit(code=12)


@pytest.mark.parametrize(
    ("said", "tail", "message", "cut_tail"),
    [
        ("", ["a"], None, ["a"]),
        ("why", [], "why", []),
        ("why", ["a", "b"], "why", ["a", "b"]),
        ("b", ["a", "b"], None, ["a", "b"]),
        ("a\nb", ["a", "b"], None, ["a", "b"]),
        ("a\r\nb", ["a ", "b", ""], None, ["a ", "b", ""]),
        ("7", ["value 17"], "7", ["value 17"]),  # no line of it
        ("\n".join(_numbers(1, 30)), _numbers(11, 30), "\n".join(_numbers(1, 30)), []),
        ("a\nb", ["b"], "a\nb", []),  # a triggerer has read the last line alone
        ("\n".join(LONG)[-2048:], LONG[-20:], None, LONG[-20:]),  # as a node cuts it
    ],
)
def test_what_a_termination_message_and_the_log_both_say_is_told_once(
    said: str, tail: list[str], message: str | None, cut_tail: list[str]
) -> None:
    ended = replace(ENDED, message=said or None)
    assert add_tail(ended, said, tail) == replace(ENDED, message=message, tail=tuple(cut_tail))


def test_a_sentence_before_the_termination_message_stays() -> None:
    pod = _ended(137, "OOMKilled", "last line")
    lifecycle = PodLifecycle("base")
    ended = lifecycle.observe("MODIFIED", pod, NOW)
    assert ended is not None
    told = lifecycle.add_tail(ended, ["first", "last line"])
    assert told.message == "The container exceeded its memory limit and was killed"
    assert told.tail == ("first", "last line")
