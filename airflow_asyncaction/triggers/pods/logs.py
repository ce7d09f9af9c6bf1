# SPDX-License-Identifier: Apache-2.0
"""The logs of a deferred task's pod, as the trigger copies them into the task log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.reports import TAIL_LINES
from airflow_asyncaction.runners.pods.container_logs import NO_SUCH_CONTAINER, of_init_container
from airflow_asyncaction.runners.pods.exit_status import init_containers
from airflow_asyncaction.runners.pods.lifecycle import PodStory
from airflow_asyncaction.runners.pods.log import LogPosition, PodLine
from airflow_asyncaction.runners.pods.spec import PodSecrets
from airflow_asyncaction.runners.task_log import write_pod_line
from airflow_asyncaction.triggers.pods.cluster import Cluster
from airflow_asyncaction.triggers.pods.live_log import LiveLog

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedLogs:
    """Which logs of a pod are copied.

    :param container: the base container
    :param position: how far a worker has read its log
    :param get_logs: whether it is copied at all
    :param init_containers: names of init containers that no worker has copied yet, or whether all are wanted
    """

    pod: str
    container: str
    position: LogPosition
    get_logs: bool
    init_containers: Sequence[str] | bool


class PodLogs:
    """Copies the log of the base container, and those of init containers before it: see ``ContainerLogs``."""

    def __init__(self, cluster: Cluster, wanted: WantedLogs, story: PodStory, log: Logger) -> None:
        self._cluster = cluster
        self._wanted = wanted
        self._story = story
        self._log = log
        self._base: LiveLog | None = None
        self._blamed: LiveLog | None = None
        self._are_init_copied = False
        self.secrets: PodSecrets | None = None
        """Nobody else masks them in a triggerer."""

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, of the base container or of the init container that kept it from starting."""
        source = self._base or self._blamed
        return () if source is None else tuple(map(self._masked, source.tail))

    @property
    def may_be_followed(self) -> bool:
        """Whether the base container is up, and nobody has begun to follow it."""
        return self._wanted.get_logs and self._story.has_started and self._base is None

    def container_ended(self) -> None:
        """Follow the base container no longer."""
        if self._base is not None:
            self._base.container_ended()

    async def follow(self, has_ended: Callable[[], bool]) -> None:
        """Copy the log of the base container to its end."""
        await self.copy_init_containers()
        if self._base is None:
            wanted = self._wanted
            self._base = self._opened(wanted.container, self._write, position=wanted.position)
        await self._base.follow(has_ended)

    async def copy_init_containers(self) -> None:
        """Copy the whole logs of those that are wanted, once. They have ended."""
        if self._are_init_copied:
            return
        wanted = self._wanted.init_containers
        names = init_containers(self._story.pod or {}, wanted)
        for name in names:
            opened = self._opened(name, partial(self._write_of, name))
            await opened.follow(lambda: True)
            if name == self._story.init_container:
                self._blamed = opened
        if not isinstance(wanted, bool) and (unknown := set(wanted) - set(names)):
            self._log.warning(NO_SUCH_CONTAINER, ", ".join(sorted(unknown)))
        self._are_init_copied = True

    async def read_rest(self, ended: Exit | None) -> None:
        """Copy all that is left of a pod that has ended, or does not start.

        If its node is lost, so is what is left.
        """
        story = self._story
        if ended is not None and ended.reason == "NodeLost" and ended.code is None:
            return
        if not story.is_stuck:
            await self.copy_init_containers()
        if story.has_started:
            is_complete = self._base is not None and self._base.is_complete
            if self._wanted.get_logs and not is_complete:
                await self.follow(lambda: True)
        elif story.init_container is not None and self._blamed is None and self._wanted.get_logs:
            name = story.init_container
            self._blamed = self._opened(name, partial(self._write_of, name), last_lines=TAIL_LINES)
            await (self._blamed.copy() if story.is_stuck else self._blamed.follow(lambda: True))

    def _opened(
        self,
        container: str,
        write: Callable[[PodLine], None],
        *,
        position: LogPosition | None = None,
        last_lines: int | None = None,
    ) -> LiveLog:
        begin = position or LogPosition()
        return LiveLog(self._cluster, self._wanted.pod, container, begin, write, last_lines=last_lines)

    def _write(self, line: PodLine) -> None:
        write_pod_line(self._log, replace(line, text=self._masked(line.text)))

    def _masked(self, text: str) -> str:
        return text if self.secrets is None else self.secrets.masked(text)

    def _write_of(self, name: str, line: PodLine) -> None:
        self._write(of_init_container(name, line))
