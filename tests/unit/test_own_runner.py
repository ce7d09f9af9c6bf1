# SPDX-License-Identifier: Apache-2.0
"""Custom runner of the documentation: passes the tests of every runner."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest

from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.base import Runner
from airflow_asyncaction.runners.routing import RoutedAction
from airflow_asyncaction.testing import TestedJob
from example_dags.jobs.nice_runner import NiceRunner

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


def nice_runner(*command: str, grace: float = 5) -> NiceRunner:
    return NiceRunner(
        RoutedAction(
            type="t",
            arguments={},
            options={"command": list(command)},
            stop_grace=timedelta(seconds=grace),
            log=cast("Logger", logging.getLogger("task")),
        )
    )


@pytest.mark.parametrize(
    ("command", "exit_"),
    [("exit 0", Exit(code=0)), ("exit 3", Exit(code=3)), ("kill -9 $$", Exit(signal="SIGKILL"))],
)
def test_it_tells_how_its_job_ended(tested: TestedJob, command: str, exit_: Exit) -> None:
    made: Runner = nice_runner("sh", "-c", command)
    assert made.wait() is None
    assert made.run(tested.info, lambda _: None) == exit_


@pytest.mark.parametrize(("ignored", "signal"), [("", "SIGTERM"), ("trap '' TERM; ", "SIGKILL")])
def test_it_stops_its_job(tested: TestedJob, ignored: str, signal: str) -> None:
    made = nice_runner("sh", "-c", f"{ignored}echo up; while :; do sleep 0.1; done", grace=0.5)
    stopping = threading.Timer(0.5, made.stop)
    stopping.start()
    assert made.run(tested.info, lambda _: None) == Exit(signal=signal)
    stopping.join()
