# SPDX-License-Identifier: Apache-2.0
"""RemoteFollower: decides when to poll an action of another deployment, and logs its progress."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.remote_api import UNVERIFIED
from airflow_asyncaction.hooks.remote_models import PollResult, Watch
from airflow_asyncaction.protocol.reports import LogLine
from airflow_asyncaction.retrying import as_sentence, is_outage, jittered, pause_seconds
from airflow_asyncaction.runners.task_log import describe_progress

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_LONGEST_PAUSE_SECONDS = 30.0
# Certificates are renewed, but a task must fail if one stays invalid for this long.
_UNVERIFIED_PATIENCE_SECONDS = 600.0


class RemoteFollower:
    """Follows an action of another deployment, and its retries, to the end.

    It performs no I/O except logging, so that workers and triggers share it. The caller polls ``watch``,
    passes the outcome to :meth:`on_result` or :meth:`on_error`, and sleeps for as long as these return.

    Log lines keep their original time. Airflow shows lines with the same time and text only once, so a line
    that two triggerers wrote, because the first one was killed, appears once.

    :param copies_logs: whether to write the action's log lines to the task log; progress always is
    :ivar watch: what to poll next
    :ivar is_done: whether polling is complete
    """

    def __init__(self, log: Logger, watch: Watch, *, poll_interval_seconds: float, copies_logs: bool) -> None:
        self.watch = watch
        self.is_done = False
        self._log = log
        self._poll_interval_seconds = poll_interval_seconds
        self._copies_logs = copies_logs
        self._last_progress: str | None = None
        self._failures = 0
        self._last_code: str | None = None
        self._unverified_at: float | None = None

    def on_result(self, result: PollResult) -> float:
        """Log new progress and log lines, and return the number of seconds until the next poll."""
        if self._failures:
            self._log.info("The other deployment is available again.")
        self._failures, self._last_code, self._unverified_at = 0, None, None
        if result.action is not None:
            self._log_progress(result.action.fields)
        if self._copies_logs:
            self._log_lines(result)
        if result.action is not None and result.next_attempt is not None:
            ended = result.action
            self._log.info(
                "Action %s ended as %s. Its retry is action %s.", ended.uuid, ended.state, result.next_attempt
            )
        self.watch = self.watch.after(result)
        self.is_done = result.is_last
        return 0.0 if result.has_more or result.is_last else jittered(self._poll_interval_seconds)

    def on_error(self, error: ServerError) -> float | None:
        """Return the number of seconds until the next poll; ``None`` if the error is final.

        Repeated errors are logged once.
        """
        if not self._is_worth_polling(error):
            return None
        if not self._failures or self._last_code != error.code:
            self._log.warning(
                "%s The action continues there, and this task keeps polling.", as_sentence(str(error))
            )
        self._failures += 1
        self._last_code = error.code
        longest_seconds = max(_LONGEST_PAUSE_SECONDS, self._poll_interval_seconds)
        first_seconds = min(2 * self._poll_interval_seconds, longest_seconds)
        pause = pause_seconds(self._failures, first_seconds=first_seconds, longest_seconds=longest_seconds)
        return max(pause, error.retry_after_seconds)

    def _is_worth_polling(self, error: ServerError) -> bool:
        if not is_outage(error):
            return False
        if error.code != UNVERIFIED:
            self._unverified_at = None
            return True
        now = time.monotonic()
        self._unverified_at = now if self._unverified_at is None else self._unverified_at
        return now - self._unverified_at <= _UNVERIFIED_PATIENCE_SECONDS

    def _log_progress(self, fields: Mapping[str, Any]) -> None:
        details = fields.get("statusDetails")
        if details is None and fields.get("progress") is not None:
            details = {name: fields.get(name) for name in ("progress", "message")}
        if details is None:
            return
        text = describe_progress(json.dumps(details))
        if text != self._last_progress:
            self._last_progress = text
            self._log.info("%s", text)

    def _log_lines(self, result: PollResult) -> None:
        missing = result.logs.first_line - self.watch.position.line - 1
        if missing > 0 and result.logs.lines:
            self._log.warning("The other deployment discarded %d log lines (max_log_lines).", missing)
        for line in result.logs.lines:
            self._log_line(line)

    def _log_line(self, line: LogLine) -> None:
        level = logging.getLevelNamesMapping().get(line.level, logging.INFO)
        if line.time_ms is None:
            self._log.log(level, "%s", line.message)
            return
        moment = datetime.fromtimestamp(line.time_ms / 1000, UTC)
        self._log.log(level, "%s", line.message, timestamp=f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}")
