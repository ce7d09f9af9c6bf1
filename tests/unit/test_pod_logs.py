# SPDX-License-Identifier: Apache-2.0
"""Containers whose logs worker and trigger copy: both the same, in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.pods.api import ResponseStream
from airflow_asyncaction.runners.pods.container_logs import ContainerLogs
from airflow_asyncaction.runners.pods.lifecycle import PodLifecycle
from airflow_asyncaction.runners.pods.log import PodLine
from airflow_asyncaction.runners.pods.log_selection import LogOptions
from airflow_asyncaction.triggers.pods.container_logs import DeferredLogs

NOW = datetime.now(UTC)
DONE = {"terminated": {"exitCode": 0}}
FAILED = {"terminated": {"exitCode": 7, "reason": "Error"}}
RUNS = {"running": {"startedAt": "2026-11-24T15:58:00Z"}}
WAITS = {"waiting": {"reason": "PodInitializing"}}


def numbers(first: int, last: int, name: str = "") -> list[str]:
    return [f"[{name}] {number}" if name else str(number) for number in range(first, last + 1)]


TEXTS = {"first": ["done"], "second": numbers(1, 30), "base": ["base"]}


@dataclass
class Logs:
    """The logs of a pod, as the cluster returns them. Each read creates another reader."""

    reads: list[str] = field(default_factory=list)

    def content(self, *, container: str, tail_lines: int | None = None, **_: Any) -> bytes:
        self.reads.append(container)
        begin = NOW - timedelta(seconds=10)
        lines = [
            f"{begin + timedelta(milliseconds=index):%Y-%m-%dT%H:%M:%S.%f}Z {text}\n"
            for index, text in enumerate(TEXTS[container])
        ]
        return "".join(lines[-(tail_lines or 0) :]).encode()

    def open(self, **options: Any) -> ResponseStream:
        return ResponseStream(Answer(self.content(**options)))

    @asynccontextmanager
    async def open_async(self, **options: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        yield _chunks(self.content(**options))


@dataclass
class Answer:
    """An answer as urllib3 has it."""

    content: bytes

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.content

    def close(self) -> None:
        """Nothing is open."""

    def release_conn(self) -> None:
        """The pod has no such container."""


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


class TaskLog:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def info(self, _: str, text: str, **__: Any) -> None:
        self.lines.append(text)

    def warning(self, text: str, *args: object) -> None:
        self.warnings.append(text % args)


def ended(init: dict[str, dict[str, Any]], base: dict[str, Any], phase: str) -> tuple[PodLifecycle, Exit]:
    status = {
        "phase": phase,
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "initContainerStatuses": [{"name": name, "state": state} for name, state in init.items()],
        "containerStatuses": [{"name": "base", "state": base}],
    }
    lifecycle = PodLifecycle("base", start_by=NOW)
    exit_ = lifecycle.observe("MODIFIED", {"metadata": {"name": "p"}, "status": status}, NOW)
    assert exit_ is not None
    return lifecycle, exit_


@pytest.mark.parametrize("get_logs", [True, False])
@pytest.mark.parametrize(
    ("init", "base", "phase", "wanted", "lines", "tail"),
    [
        pytest.param(
            {"first": DONE, "second": DONE}, FAILED, "Failed", False, ["base"], ["base"], id="base fails"
        ),
        pytest.param(
            {"first": DONE, "second": DONE},
            FAILED,
            "Failed",
            True,
            ["[first] done", *numbers(1, 30, "second"), "base"],
            ["base"],
            id="base fails, all asked for",
        ),
        pytest.param(
            {"first": DONE, "second": FAILED},
            WAITS,
            "Failed",
            ["first"],
            ["[first] done", *numbers(11, 30, "second")],
            numbers(11, 30),
            id="init fails, another asked for",
        ),
        pytest.param(
            {"first": DONE, "second": FAILED},
            WAITS,
            "Failed",
            ["second"],
            numbers(1, 30, "second"),
            numbers(11, 30),
            id="init fails, asked for",
        ),
        pytest.param(
            {"first": DONE, "second": RUNS},
            WAITS,
            "Pending",
            True,
            numbers(11, 30, "second"),
            numbers(11, 30),
            id="init hangs",
        ),
    ],
)
def test_a_worker_and_a_trigger_copy_the_same_lines(
    init: dict[str, dict[str, Any]],
    base: dict[str, Any],
    phase: str,
    wanted: Sequence[str] | bool,
    lines: list[str],
    tail: list[str],
    get_logs: bool,
) -> None:
    by_worker = of_worker(*ended(init, base, phase), wanted, get_logs)
    by_trigger = of_trigger(*ended(init, base, phase), wanted, get_logs)
    assert by_worker == by_trigger
    if get_logs:
        assert by_worker == (lines, tuple(tail))
    else:  # then only containers requested by name are copied
        assert all(line.startswith("[") for line in by_worker[0])
        assert "base" not in by_worker[1]


Copied = tuple[list[str], tuple[str, ...]]


def of_worker(lifecycle: PodLifecycle, exit_: Exit, wanted: Sequence[str] | bool, get_logs: bool) -> Copied:
    copied: list[PodLine] = []
    options = LogOptions(container="base", get_logs=get_logs, init_containers=wanted)
    logs = ContainerLogs(Logs().open, copied.append, options, lifecycle)
    if lifecycle.has_started:
        logs.start()
    logs.finish(exit_)
    return [line.text for line in copied], logs.tail


def of_trigger(lifecycle: PodLifecycle, exit_: Exit, wanted: Sequence[str] | bool, get_logs: bool) -> Copied:
    options = LogOptions(container="base", get_logs=get_logs, init_containers=wanted)
    task_log = TaskLog()
    logs = DeferredLogs(Logs().open_async, options, lifecycle, cast("Any", task_log))
    asyncio.run(logs.finish(exit_))
    return task_log.lines, logs.tail


def test_the_log_of_a_lost_node_is_not_asked_for() -> None:
    lifecycle, _ = ended({"first": DONE}, FAILED, "Failed")
    lost, kept, task_log = Exit(reason="NodeLost"), Logs(), TaskLog()
    options = LogOptions(container="base", get_logs=True, init_containers=True)
    ContainerLogs(kept.open, lambda _: None, options, lifecycle).finish(lost)
    asyncio.run(DeferredLogs(kept.open_async, options, lifecycle, cast("Any", task_log)).finish(lost))
    assert kept.reads == []


def test_an_unknown_init_container_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    lifecycle, exit_ = ended({"first": DONE}, FAILED, "Failed")
    of_worker(lifecycle, exit_, ["first", "absent"], True)
    assert "init_container_logs: these init containers do not exist or have not ended: absent" in caplog.text
    options = LogOptions(container="base", get_logs=True, init_containers=["absent"])
    task_log = TaskLog()
    logs = DeferredLogs(Logs().open_async, options, lifecycle, cast("Any", task_log))
    asyncio.run(logs.finish(exit_))
    assert task_log.warnings == [
        "init_container_logs: these init containers do not exist or have not ended: absent"
    ]
