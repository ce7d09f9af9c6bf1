# SPDX-License-Identifier: Apache-2.0
"""Container logs of a deferred task's pod, as the trigger copies them into the task log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from airflow_asyncaction import settings
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.pods.api_requests import ClusterError
from airflow_asyncaction.runners.pods.lifecycle import PodLifecycle
from airflow_asyncaction.runners.pods.log import (
    LogReader,
    LogReadResult,
    LogSteps,
    Pause,
    PodLine,
    ReadLog,
    follow_steps,
)
from airflow_asyncaction.runners.pods.log_selection import LogOptions, LogSelection, LogSource
from airflow_asyncaction.runners.pods.spec import PodSecrets
from airflow_asyncaction.runners.task_log import write_pod_line

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_PIECE_BYTES = 1024  # Airflow takes a millisecond or more to log a line: other triggers must be able to run

OpenLog = Callable[..., AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""Opens the log of a container. Called with ``follow`` and, optionally, ``since_seconds``."""


class AsyncLogCopy:
    """Copies the log of one container.

    :param write: called once with each line
    """

    def __init__(self, open_log: OpenLog, reader: LogReader, write: Callable[[PodLine], None]) -> None:
        self._open_log = open_log
        self._reader = reader
        self._write = write
        self._following: asyncio.Timeout | None = None
        self._has_ended = False

    def end_follow(self) -> None:
        """Stop following: the container has ended. Some clusters end the stream only seconds later."""
        self._has_ended = True
        if self._following is not None:
            self._following.reschedule(0)

    async def run(self, steps: LogSteps) -> None:
        """Perform the steps, and write the new lines of the log."""
        result: LogReadResult | None = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration:
                break
            result = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                result = await self._read(step)
        for line in self._reader.finish():
            self._write(line)

    async def _read(self, step: ReadLog) -> LogReadResult:
        try:
            async with asyncio.timeout(None) as following:
                self._following = following if step.follow else None
                if step.follow and self._has_ended:
                    return LogReadResult.ENDED
                await self._feed(step)
        except TimeoutError:  # the container has ended
            return LogReadResult.ENDED
        except ClusterError as error:
            return self._reader.classify_failure(error)
        finally:
            self._following = None
        return LogReadResult.ENDED

    async def _feed(self, step: ReadLog) -> None:
        self._reader.begin(reads_all=step.reads_all)
        async with self._open_log(follow=step.follow, since_seconds=step.since_seconds) as chunks:
            async for chunk in chunks:
                for start in range(0, len(chunk), _PIECE_BYTES):
                    for line in self._reader.feed(chunk[start : start + _PIECE_BYTES]):
                        self._write(line)
                    await asyncio.sleep(0)  # let other triggers run
                if self._reader.has_gap:
                    return


class DeferredLogs:
    """Follows the log of the base container, and copies those of init containers.

    :param open_log: opens the log of the pod's ``container``, with more options
    :param log: the task log
    """

    def __init__(self, open_log: OpenLog, options: LogOptions, lifecycle: PodLifecycle, log: Logger) -> None:
        self._open_log = open_log
        self._get_logs = options.get_logs
        self._lifecycle = lifecycle
        self._log = log
        self._selection = LogSelection(
            options, lifecycle, write=self._write, mask=self._mask, warn=log.warning
        )
        self._reader = LogReader(options.position)
        base = self._selection.base
        self._base = AsyncLogCopy(partial(open_log, container=base.container), self._reader, base.write)
        self._is_followed = self._is_complete = False
        self.secrets: PodSecrets | None = None
        """The action's secrets: nothing else masks them in a triggerer."""

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, of the base container or of the init container that kept it from starting."""
        return self._selection.tail

    @property
    def can_be_followed(self) -> bool:
        """Whether the base container has started, and its log is not followed yet."""
        return self._get_logs and self._lifecycle.has_started and not self._is_followed

    def end_follow(self) -> None:
        """Stop following the base container: it has ended."""
        self._base.end_follow()

    async def follow(self, has_ended: Callable[[], bool]) -> None:
        """Copy the log of the base container to its end, after those of the init containers."""
        self._is_followed = True
        await self.copy_init_logs()
        await self._base.run(follow_steps(self._reader, has_ended))
        self._is_complete = True

    async def copy_init_logs(self) -> None:
        """Copy the requested logs of init containers, once. They have ended."""
        for source in self._selection.take_init_sources():
            await self._copy(source)

    async def finish(self, exit_: Exit | None) -> None:
        """Copy the remaining logs of a pod that has ended or does not start."""
        for source in self._selection.take_remaining_sources(exit_):
            if source is not self._selection.base:
                await self._copy(source)
            elif not self._is_complete:
                await self.follow(lambda: True)

    async def _copy(self, source: LogSource) -> None:
        reader = LogReader()
        open_log = partial(self._open_log, container=source.container, **source.options)
        await AsyncLogCopy(open_log, reader, source.write).run(source.steps(reader))

    def _write(self, line: PodLine) -> None:
        write_pod_line(self._log, replace(line, text=self._mask(line.text)))

    def _mask(self, text: str) -> str:
        return text if self.secrets is None else self.secrets.mask(text)


class LiveLogLimiter:
    """Limits how many logs a triggerer follows at a time: each needs connections to cluster and kubelet.

    Waiters without a slot wait in line until their container ends. A waiter is identified by the callback
    that wakes it.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: dict[Callable[[], None], None] = {}

    def acquire(self, wake: Callable[[], None]) -> bool:
        """Take a slot; if none is free, wait in line: ``wake`` is called when one may be."""
        if self._free > 0:
            self._free -= 1
            self._waiting.pop(wake, None)
            return True
        self._waiting[wake] = None
        return False

    def stop_waiting(self, wake: Callable[[], None]) -> None:
        """Leave the line; if a slot is free, wake the next waiter, since this one may have been woken."""
        self._waiting.pop(wake, None)
        if self._free > 0:
            self._wake_next()

    def release(self) -> None:
        """Free a slot, and wake the first waiter in line."""
        self._free += 1
        self._wake_next()

    def _wake_next(self) -> None:
        if self._waiting:
            wake = next(iter(self._waiting))
            del self._waiting[wake]
            wake()


@cache
def get_live_log_limiter() -> LiveLogLimiter:
    """Return the limiter of this process."""
    return LiveLogLimiter(settings.load().live_pod_logs)
