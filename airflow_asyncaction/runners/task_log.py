# SPDX-License-Identifier: Apache-2.0
"""Task log entries of a job: its reported lines and progress, and the log of its container."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from airflow_asyncaction.protocol.reports import (
    SERVER_STREAM,
    Limits,
    LogLine,
    cut_line,
    find_progress,
    replace_unstorable,
)
from airflow_asyncaction.protocol.tasks import TaskView

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_asyncaction.runners.pods.log import PodLine

_DONE_PERCENT = 100


class ReportLog:
    """Writes what a job has reported since the action was last read, each line once.

    :param copies_logs: whether reported log lines are written; the server's own lines always are
    :param after_line: number of the last line that was read before
    """

    def __init__(self, log: Logger, *, copies_logs: bool, after_line: int = 0) -> None:
        self._log = log
        self._copies_logs = copies_logs
        self._last_details: str | None = None
        self.last_line = after_line

    def write(self, view: TaskView) -> None:
        """Write the progress if it has changed, and the lines after the last one that was read."""
        if view.status_details is not None and view.status_details != self._last_details:
            self._last_details = view.status_details
            self._log.info("%s", describe_progress(view.status_details))
        dropped = view.first_line - self.last_line - 1
        if dropped > 0 and view.logs and self._copies_logs:
            self._log.warning("%d reported lines were dropped (max_log_lines)", dropped)
        for line in view.logs:
            if line.stream == SERVER_STREAM or (self._copies_logs and line.stream is None):
                write_log_line(self._log, line)  # stdout and stderr are in the log already
        if view.logs:
            self.last_line = view.first_line + len(view.logs) - 1


def write_log_line(log: Logger, line: LogLine) -> None:
    """Write a reported line at its level; a level unknown to ``logging`` becomes INFO."""
    log.log(logging.getLevelNamesMapping().get(line.level, logging.INFO), "%s", line.message)


def write_pod_line(log: Logger, line: PodLine) -> None:
    """Write a line of a container's log, with the time at which the container wrote it.

    Airflow keeps that time, and shows lines with the same time and text only once. So a line appears once
    even if two triggerers wrote it because the first one was killed.
    """
    log.info("%s", line.text, timestamp=f"{line.time:%Y-%m-%dT%H:%M:%S.%fZ}")


def describe_progress(status_details: str) -> str:
    """Return one line for a job's ``statusDetails``, such as ``progress 40%: loading``."""
    progress, message = find_progress(json.loads(status_details))
    if progress is not None and 0 <= progress <= _DONE_PERCENT:  # a remote deployment may send anything
        text = f"progress {progress:g}%"
        text = f"{text}: {message}" if message else text
    else:
        text = f"status details {message if message is not None else status_details}"
    return cut_line(replace_unstorable(text), Limits().line_bytes)
