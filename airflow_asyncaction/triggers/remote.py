# SPDX-License-Identifier: Apache-2.0
"""The trigger of tasks whose action is another deployment's."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_asyncaction import settings
from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.remote_access import UNVERIFIED
from airflow_asyncaction.hooks.remote_client import remote_client
from airflow_asyncaction.hooks.remote_models import Look, Position, Watch
from airflow_asyncaction.protocol.reports import LogLine
from airflow_asyncaction.runners.task_log import describe_progress
from airflow_asyncaction.triggers.api_server import is_away
from airflow_asyncaction.triggers.on_kill import to_its_end

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_LONGEST_PAUSE_SECONDS = 30.0
_KILL_PATIENCE_SECONDS = 25.0
# Certificates are renewed; but if one cannot be verified for so long, somebody has to know.
_UNVERIFIED_PATIENCE_SECONDS = 600.0


class RemoteLog:
    """Writes what is new in each look at a remote action into the task log.

    Lines keep the times that they have there: Airflow shows lines of the same time and text once, so what two
    triggerers have written, since one was killed, stands there once.

    :param copies_logs: whether its log lines are to be written; progress always is
    """

    def __init__(self, log: Logger, *, copies_logs: bool) -> None:
        self._log = log
        self._copies_logs = copies_logs
        self._last_progress: str | None = None
        self._problem: str | None = None
        self._unverified_at: float | None = None

    def show(self, look: Look, *, after_line: int) -> None:
        """Write what a look has shown.

        :param after_line: the last line that was seen before
        """
        if self._problem is not None:
            self._log.info("The other deployment answers again")
        self._problem = self._unverified_at = None
        if look.action is not None:
            self._show_progress(look.action.fields)
        dropped = look.logs.first_line - after_line - 1
        if dropped > 0 and look.logs.lines and self._copies_logs:
            self._log.warning("%d lines were dropped there (log_limit)", dropped)
        for line in look.logs.lines if self._copies_logs else ():
            self._write(line)
        if look.action is not None and look.next_attempt is not None:
            ended = look.action
            self._log.info(
                "Action %s ended as %s; its next try is %s", ended.uuid, ended.state, look.next_attempt
            )

    def may_pass(self, error: ServerError) -> bool:
        """Tell whether another look may succeed where one has failed; and write, once, that this one has."""
        if not is_away(error):
            return False
        if error.code != UNVERIFIED:
            self._unverified_at = None
        elif self._unverified_at is None:
            self._unverified_at = time.monotonic()
        elif time.monotonic() - self._unverified_at > _UNVERIFIED_PATIENCE_SECONDS:
            return False
        if self._problem != error.code:
            self._log.warning("%s; the action goes on there, and this task looks again", error)
        self._problem = error.code
        return True

    def _show_progress(self, fields: Any) -> None:
        details = fields.get("statusDetails")
        if details is None and fields.get("progress") is not None:
            details = {name: fields.get(name) for name in ("progress", "message")}
        if details is None:
            return
        text = describe_progress(json.dumps(details))
        if text != self._last_progress:
            self._last_progress = text
            self._log.info("%s", text)

    def _write(self, line: LogLine) -> None:
        level = logging.getLevelNamesMapping().get(line.level, logging.INFO)
        if line.time_ms is None:
            self._log.log(level, "%s", line.message)
            return
        moment = datetime.fromtimestamp(line.time_ms / 1000, UTC)
        self._log.log(level, "%s", line.message, timestamp=f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}")


class RemoteActionTrigger(BaseTrigger):
    """Waits for the end of an action of another deployment; its progress and log go into the task log.

    How it works: one small request for each look. The other deployment may be away for as long as it likes.
    If the operation's task there is tried again, which is an action of its own, it goes on with that. It
    fires once nothing more is to come, or the other deployment refuses to say, which the worker then sees
    too; never before the settle time is over.

    What it does not do: remember the next try. One that is started anew goes through the tries once more.

    :param after_line: the last log line that is in the task log
    :param stop_on_kill: whether the action is stopped if somebody marks or clears the task
    """

    def __init__(
        self,
        *,
        asyncaction_conn_id: str,
        action_id: str,
        poll_interval_seconds: float,
        after_line: int = 0,
        copies_logs: bool = True,
        stop_on_kill: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asyncaction_conn_id = asyncaction_conn_id
        self.action_id = action_id
        self.poll_interval_seconds = poll_interval_seconds
        self.after_line = after_line
        self.copies_logs = copies_logs
        self.stop_on_kill = stop_on_kill

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments. There is no secret among them."""
        kwargs = {
            "asyncaction_conn_id": self.asyncaction_conn_id,
            "action_id": self.action_id,
            "poll_interval_seconds": self.poll_interval_seconds,
            "after_line": self.after_line,
            "copies_logs": self.copies_logs,
            "stop_on_kill": self.stop_on_kill,
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Fire when there is nothing more to wait for."""
        began_at = time.monotonic()
        after_line = await self._follow()
        settled_at = began_at + settings.resume_settle().total_seconds()
        await asyncio.sleep(max(0.0, settled_at - time.monotonic()))
        yield TriggerEvent({"action_id": self.action_id, "after_line": after_line})

    async def on_kill(self) -> None:
        """Stop the action there: somebody has marked or cleared the task."""
        if self.stop_on_kill:
            await to_its_end(self._kill())

    async def _follow(self) -> int:
        """Look until the end; return the last line that was seen."""
        shown = RemoteLog(self.log, copies_logs=self.copies_logs)
        watch = Watch(action_id=self.action_id, position=Position(line=self.after_line))
        pause = self.poll_interval_seconds
        async with remote_client(self.asyncaction_conn_id) as remote:
            while True:
                try:
                    look = await remote.look(watch.action_id, watch.position)
                except ServerError as error:
                    if not shown.may_pass(error):
                        self.log.warning("%s", error)
                        return watch.position.line
                    pause = min(2 * pause, max(_LONGEST_PAUSE_SECONDS, self.poll_interval_seconds))
                    await asyncio.sleep(_jittered(pause))
                    continue
                pause = self.poll_interval_seconds
                shown.show(look, after_line=watch.position.line)
                watch = watch.after(look)
                self.action_id = watch.action_id
                if look.is_last:
                    return watch.position.line
                if not look.has_more:
                    await asyncio.sleep(_jittered(pause))

    async def _kill(self) -> None:
        give_up_at = time.monotonic() + _KILL_PATIENCE_SECONDS
        async with remote_client(self.asyncaction_conn_id) as remote:
            while True:
                try:
                    await remote.stop(self.action_id)
                except ServerError as error:
                    if not is_away(error) or time.monotonic() > give_up_at:
                        self.log.warning("Action %s was not stopped: %s", self.action_id, error)
                        return
                else:
                    self.log.info("Action %s was asked to stop", self.action_id)
                    return
                await asyncio.sleep(_jittered(1.0))


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
