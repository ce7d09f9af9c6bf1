# SPDX-License-Identifier: Apache-2.0
"""RemoteActionTrigger: waits for an action of another deployment on behalf of a deferred task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_asyncaction import settings
from airflow_asyncaction.exceptions import ServerError
from airflow_asyncaction.hooks.remote_client import remote_client
from airflow_asyncaction.hooks.remote_models import Position, Watch
from airflow_asyncaction.retrying import async_retrying
from airflow_asyncaction.triggers.on_kill import run_uncancelled
from airflow_asyncaction.triggers.remote_follower import RemoteFollower

_KILL_PATIENCE = timedelta(seconds=25)
_LONGEST_KILL_PAUSE_SECONDS = 2.0


class RemoteActionTrigger(BaseTrigger):
    """Waits for an action of another deployment to end, and copies its progress and log to the task log.

    How it works: one small request per poll, over connections that all triggers of a process share. It
    tolerates outages of any length. If the operation's task is retried there, as a new action, it follows
    that one. It fires when the last action has ended, or when the other deployment refuses a request, so that
    the worker gets the same refusal. It never fires before the resume delay has passed.

    What it does not do: remember which retry it follows. A restarted trigger starts at the first action.

    :param after_line: number of the last log line that was copied to the task log
    :param stop_on_kill: whether to stop the action if a user marks or clears the task
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
        """Return the class path and the arguments, which contain no secrets."""
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
        resume_at = began_at + settings.resume_delay().total_seconds()
        await asyncio.sleep(max(0.0, resume_at - time.monotonic()))
        yield TriggerEvent({"action_id": self.action_id, "after_line": after_line})

    async def on_kill(self) -> None:
        """Stop the action: a user marked or cleared the task."""
        if self.stop_on_kill:
            await run_uncancelled(self._stop_action())

    async def _follow(self) -> int:
        """Poll until the end, and return the number of the last log line that was read."""
        follower = RemoteFollower(
            self.log,
            Watch(action_id=self.action_id, position=Position(line=self.after_line)),
            poll_interval_seconds=self.poll_interval_seconds,
            copies_logs=self.copies_logs,
        )
        async with remote_client(self.asyncaction_conn_id) as client:
            while not follower.is_done:
                try:
                    result = await client.poll(follower.watch)
                except ServerError as error:
                    pause = follower.on_error(error)
                    if pause is None:
                        self.log.warning("%s", error)
                        break
                else:
                    pause = follower.on_result(result)
                    self.action_id = follower.watch.action_id
                await asyncio.sleep(pause)
        return follower.watch.position.line

    async def _stop_action(self) -> None:
        retrying = async_retrying(
            _KILL_PATIENCE, self.log.warning, longest_seconds=_LONGEST_KILL_PAUSE_SECONDS
        )
        async with remote_client(self.asyncaction_conn_id) as client:
            try:
                await retrying(client.stop, self.action_id)
            except ServerError as error:
                self.log.warning("Action %s was not stopped: %s", self.action_id, error)
            else:
                self.log.info("Action %s was asked to stop.", self.action_id)
