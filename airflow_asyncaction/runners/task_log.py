# SPDX-License-Identifier: Apache-2.0
"""How a line of a job stands in the task log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_asyncaction.protocol.reports import LogLine

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_asyncaction.runners.pods.log import PodLine


def write_log_line(log: Logger, line: LogLine) -> None:
    """Write a reported line into the task log, at its level; one that Python does not know is INFO."""
    log.log(logging.getLevelNamesMapping().get(line.level, logging.INFO), "%s", line.message)


def write_pod_line(log: Logger, line: PodLine) -> None:
    """Write a line of a container's log into the task log, with the time at which the container wrote it.

    Airflow keeps a time that is given, and shows lines of the same time and text once: so a line that two
    triggerers have written, since one was killed, stands there once.
    """
    log.info("%s", line.text, timestamp=f"{line.time:%Y-%m-%dT%H:%M:%S.%fZ}")
