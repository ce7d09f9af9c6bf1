# SPDX-License-Identifier: Apache-2.0
"""Task log: writes a job's progress, its reported log lines and its container's output into it."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from airflow_asyncaction.protocol.reports import (
    SERVER_STREAM,
    Limits,
    LogLine,
    cut_line,
    progress_of,
    well_formed,
)
from airflow_asyncaction.protocol.tasks import TaskView

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_asyncaction.runners.pods.log import PodLine

_DONE = 100  # per cent


class ReportLog:
    """Writes the progress and log lines that are new in each view of an action.

    :param copies_logs: whether to write the job's reported log lines; the server's own are always written
    :param after_line: the number of the last line that was read before
    """

    def __init__(self, log: Logger, *, copies_logs: bool, after_line: int = 0) -> None:
        self._log = log
        self._copies_logs = copies_logs
        self._last_details: str | None = None
        self.last_line = after_line

    def write(self, view: TaskView) -> None:
        """Write the progress, if it has changed, and the lines after the last one that was read."""
        if view.status_details is not None and view.status_details != self._last_details:
            self._last_details = view.status_details
            self._log.info("%s", describe_progress(view.status_details))
        dropped = view.first_line - self.last_line - 1
        if dropped > 0 and view.logs and self._copies_logs:
            self._log.warning("%d reported lines were dropped (log_limit)", dropped)
        for line in view.logs:
            if line.stream == SERVER_STREAM or (self._copies_logs and line.stream is None):
                write_log_line(self._log, line)  # others came as the job's output, or directly
        if view.logs:
            self.last_line = view.first_line + len(view.logs) - 1


def describe_progress(status_details: str) -> str:
    """Return one line for a job's ``statusDetails``, such as ``progress 40 % loading``."""
    progress, message = progress_of(json.loads(status_details))
    if progress is not None and 0 <= progress <= _DONE:  # another deployment may send any number
        text = f"progress {progress:g} %"
        text = f"{text} {message}" if message else text
    else:
        text = f"status details {message if message is not None else status_details}"
    return cut_line(well_formed(text), Limits().line_bytes)


def write_log_line(log: Logger, line: LogLine) -> None:
    """Write a reported line into the task log at its level, or at INFO if Python does not know the level."""
    log.log(logging.getLevelNamesMapping().get(line.level, logging.INFO), "%s", line.message)


def write_pod_line(log: Logger, line: PodLine) -> None:
    """Write a line of a container's log into the task log, with the container's timestamp.

    Airflow keeps a given timestamp, and shows lines with the same timestamp and text once. So a line that two
    triggerers wrote, because one was killed, appears once.
    """
    log.info("%s", line.text, timestamp=f"{line.time:%Y-%m-%dT%H:%M:%S.%fZ}")
