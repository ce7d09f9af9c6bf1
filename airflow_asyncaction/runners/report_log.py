# SPDX-License-Identifier: Apache-2.0
"""What a job reports, in the log of its task: each line once, whoever looks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow_asyncaction.protocol.reports import SERVER_STREAM, Limits, cut_line, progress_of, well_formed
from airflow_asyncaction.protocol.tasks import TaskView
from airflow_asyncaction.runners.task_log import write_log_line

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_DONE = 100  # per cent


class Shown:
    """Writes what is new in each look at an action.

    :param copies_logs: whether log lines that the job reports are to be written; the server's own always are
    :param after_line: the number of the last line that was looked at before
    """

    def __init__(self, log: Logger, *, copies_logs: bool, after_line: int = 0) -> None:
        self._log = log
        self._copies_logs = copies_logs
        self._last_details: str | None = None
        self.last_line = after_line

    def show(self, view: TaskView) -> None:
        """Write the progress, if it has changed, and the lines after the last one that was looked at."""
        if view.status_details is not None and view.status_details != self._last_details:
            self._last_details = view.status_details
            self._log.info("%s", describe_progress(view.status_details))
        dropped = view.first_line - self.last_line - 1
        if dropped > 0 and view.logs and self._copies_logs:
            self._log.warning("%d reported lines were dropped (log_limit)", dropped)
        for line in view.logs:
            if line.stream == SERVER_STREAM or (self._copies_logs and line.stream is None):
                write_log_line(self._log, line)  # else it came by the job's own output, or directly
        if view.logs:
            self.last_line = view.first_line + len(view.logs) - 1


def describe_progress(status_details: str) -> str:
    """Return one line for a job's ``statusDetails``, such as ``progress 40 % loading``."""
    progress, message = progress_of(json.loads(status_details))
    if progress is not None and 0 <= progress <= _DONE:  # another deployment may say anything
        text = f"progress {progress:g} %"
        text = f"{text} {message}" if message else text
    else:
        text = f"status details {message if message is not None else status_details}"
    return cut_line(well_formed(text), Limits().line_bytes)
