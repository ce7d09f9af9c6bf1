# SPDX-License-Identifier: Apache-2.0
"""A callable and a custom runner for routed actions."""

from __future__ import annotations

import logging
from typing import Any

from airflow_asyncaction.job import Job
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.base import OnLaunched
from airflow_asyncaction.runners.routing import RoutedAction

log = logging.getLogger(__name__)


def total(numbers: list[int], job: Job) -> dict[str, Any]:
    """Add up numbers."""
    job.progress(100, "added")
    log.info("%d numbers", len(numbers))
    return {"type": "sum.total", "numbers": numbers}


class TellingRunner:
    """Launches nothing: logs its options, and exits with the requested code."""

    name, copies_reported_logs = "telling", True

    def __init__(self, routed: RoutedAction) -> None:
        self.routed = routed

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit:
        on_launched({"host": "nowhere"})
        self.routed.log.info("given %s %s", self.routed.options, self.routed.stop_grace)
        return Exit(code=self.routed.arguments.get("code", 0))

    def stop(self) -> None: ...

    def wait(self) -> Exit | None:
        return None

    def release(self) -> None: ...
