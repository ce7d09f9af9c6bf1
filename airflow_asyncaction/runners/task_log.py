# SPDX-License-Identifier: Apache-2.0
"""How a line that a job reports stands in the task log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_asyncaction.protocol.reports import LogLine

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


def write_log_line(log: Logger, line: LogLine) -> None:
    """Write a reported line into the task log, at its level; one that Python does not know is INFO."""
    log.log(logging.getLevelNamesMapping().get(line.level, logging.INFO), "%s", line.message)
