# SPDX-License-Identifier: Apache-2.0
"""CPU of the API server while local tasks wait for jobs that report nothing: long polls and plain polls."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING, cast

from airflow_asyncaction.hooks.task import TaskHook
from airflow_asyncaction.operators.poller import ActionPoller
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.protocol.tasks import TaskCredentials
from benchmarks.reports import make_targets
from benchmarks.targets import Target
from benchmarks.usage import Usage
from dev.deployment import Deployment

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

TASKS = 200
_PLAIN_SECONDS = 2.0
_BACKED_OFF_SECONDS = 5.0
_SETTLE_SECONDS = 16.0  # a long poll takes up to 15 s, so that they no longer end together
_MEASURED_SECONDS = 30.0

Wait = Callable[[TaskHook, Target, threading.Event], None]
"""Waits for the job of a target, until the event is set."""


def run(airflow: Deployment) -> None:
    """Run the benchmark and print the table."""
    targets = make_targets(airflow, TASKS)
    ways: dict[str, Wait] = {
        "plain polls every 2 s": _poll_every(_PLAIN_SECONDS),
        "plain polls every 5 s": _poll_every(_BACKED_OFF_SECONDS),
        "long polls": _follow,
    }
    print(f"\nOne api-server worker on PostgreSQL, while {TASKS} tasks wait for jobs that report nothing\n")
    idle = _cores(airflow)
    print(f"{'no task waits':26} {idle:6.3f} cores")
    first: float | None = None
    for name, wait in ways.items():
        with _waiting(airflow.base_url + "/async", targets, wait):
            time.sleep(_SETTLE_SECONDS)
            cores = _cores(airflow) - idle
        first = first or cores
        print(f"{name:26} {cores:6.3f} cores more   {cores / first:.2f} x")


def _cores(airflow: Deployment) -> float:
    """Return the CPU time of the API server per second."""
    pid = airflow.api_server.pid
    assert pid is not None
    usage, started_at = Usage(pid), time.monotonic()
    before = usage.cpu_seconds()
    time.sleep(_MEASURED_SECONDS)
    return (usage.cpu_seconds() - before) / (time.monotonic() - started_at)


@contextmanager
def _waiting(hook_url: str, targets: Sequence[Target], wait: Wait) -> Iterator[None]:
    """Let tasks wait in a process of their own."""
    context = multiprocessing.get_context("fork")
    is_over = context.Event()
    process = context.Process(target=_wait_for_all, args=(hook_url, targets, wait, is_over))
    process.start()
    try:
        yield
    finally:
        is_over.set()
        process.join()


def _wait_for_all(hook_url: str, targets: Sequence[Target], wait: Wait, is_over: Event) -> None:
    ending = threading.Event()
    threads = []
    for target in targets:
        thread = threading.Thread(target=wait, args=(TaskHook(hook_url), target, ending), daemon=True)
        thread.start()
        threads.append(thread)
        time.sleep(_PLAIN_SECONDS / len(targets))
    is_over.wait()
    ending.set()
    for thread in threads:
        thread.join()


def _poll_every(seconds: float) -> Wait:
    def wait(hook: TaskHook, target: Target, ending: threading.Event) -> None:
        while not ending.is_set():
            hook.read(_credentials(target), patience=timedelta(minutes=1))
            ending.wait(seconds)

    return wait


def _follow(hook: TaskHook, target: Target, ending: threading.Event) -> None:
    poller = ActionPoller(
        hook,
        _credentials(target),
        cast("Logger", logging.getLogger("task")),
        interval=timedelta(seconds=_PLAIN_SECONDS),
        copies_logs=True,
        on_stop=lambda: None,
    )
    poller.start()
    ending.wait()
    poller.finish()


def _credentials(target: Target) -> TaskCredentials:
    return TaskCredentials(JobId(target.job_id), target.task_key)
