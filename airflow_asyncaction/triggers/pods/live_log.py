# SPDX-License-Identifier: Apache-2.0
"""Drives ``runners.pod_log`` with asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from airflow_asyncaction.protocol.reports import TAIL_LINES
from airflow_asyncaction.runners.pods.log import (
    LogPosition,
    LogReader,
    Outcome,
    Pause,
    PodLine,
    Read,
    log_steps,
)
from airflow_asyncaction.triggers.pods.cluster import Cluster, ClusterAway, ClusterRefused

log = logging.getLogger(__name__)

_NO_LOG = (400, 404)
_PIECE_BYTES = 1024  # a line takes Airflow a millisecond or more to log: other triggers are to have turns


class LiveLog:
    """Passes the log of one container on.

    :param write: takes each line, once
    :param last_lines: how many of its lines are read at a time; ``None``: all
    """

    def __init__(
        self,
        cluster: Cluster,
        pod: str,
        container: str,
        position: LogPosition,
        write: Callable[[PodLine], None],
        *,
        last_lines: int | None = None,
    ) -> None:
        self._options = {} if last_lines is None else {"tail_lines": last_lines}
        self._cluster = cluster
        self._pod = pod
        self._container = container
        self._write = write
        self._reader = LogReader(position)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._reading: asyncio.Timeout | None = None
        self.is_complete = False
        """Whether all of it was passed on."""

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines that were passed on."""
        return tuple(self._tail)

    def container_ended(self) -> None:
        """Follow no longer: some clusters notice only after seconds that a log has ended."""
        if self._reading is not None:
            self._reading.reschedule(0)

    async def follow(self, has_ended: Callable[[], bool]) -> None:
        """Pass lines on until the container has ended, and all of them were read."""
        steps = log_steps(self._reader, has_ended)
        outcome: Outcome | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration:
                break
            outcome = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                outcome = await self._read(step, has_ended)
        for line in self._reader.finish():
            self._pass_on(line)
        self.is_complete = True

    async def copy(self) -> None:
        """Pass on what there is now; what the container still writes is left."""
        await self._read(Read(follow=False, since_seconds=None), lambda: False)
        for line in self._reader.finish():
            self._pass_on(line)

    async def _read(self, step: Read, has_ended: Callable[[], bool]) -> Outcome:
        try:
            async with asyncio.timeout(None) as reading:
                self._reading = reading if step.follow else None
                if step.follow and has_ended():
                    return Outcome.ENDED
                await self._feed(step)
        except TimeoutError:  # the container has ended
            return Outcome.ENDED
        except ClusterAway:
            return Outcome.BROKE
        except ClusterRefused as refused:
            if refused.status in _NO_LOG:
                return Outcome.ABSENT
            if not self._reader.is_refused:
                log.warning("The log of the pod %s cannot be read now: %s", self._pod, refused)
            self._reader.is_refused = True
            return Outcome.BROKE
        finally:
            self._reading = None
        return Outcome.ENDED

    async def _feed(self, step: Read) -> None:
        since = {} if step.since_seconds is None else {"since_seconds": step.since_seconds}
        options = {**self._options, **since}
        self._reader.begin(reads_all=step.since_seconds is None)
        async with self._cluster.log(
            self._pod, container=self._container, follow=step.follow, **options
        ) as chunks:
            async for chunk in chunks:
                for start in range(0, len(chunk), _PIECE_BYTES):
                    for line in self._reader.feed(chunk[start : start + _PIECE_BYTES]):
                        self._pass_on(line)
                    await asyncio.sleep(0)  # other triggers have work to do
                if self._reader.has_gap:
                    return

    def _pass_on(self, line: PodLine) -> None:
        self._tail.append(line.text)
        self._write(line)
