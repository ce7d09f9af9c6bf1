# SPDX-License-Identifier: Apache-2.0
"""The logs of a pod's containers, as a worker copies them into the task log."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from airflow_asyncaction.hooks.known_secrets import masked
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.reports import TAIL_LINES
from airflow_asyncaction.runners.pods.exit_status import init_containers
from airflow_asyncaction.runners.pods.lifecycle import PodStory
from airflow_asyncaction.runners.pods.log import LogPosition, LogReader, PodLine
from airflow_asyncaction.runners.pods.log_thread import LogThread, copy_log

log = logging.getLogger(__name__)

NO_SUCH_CONTAINER = "init_container_logs: no init container %s has ended"
"""Warning of names that are in ``init_container_logs`` alone."""


class ContainerLogs:
    """Copies the log of the base container as it comes, and those of init containers when they are over.

    How it works: the logs of init containers that are asked for are copied whole, before that of the base
    container. Of one that keeps the base container from starting, at least the last lines are.

    :param read: calls ``read_namespaced_pod_log`` for the pod, with ``container`` and more options
    :param write: takes each line; those of init containers have the container's name before them
    :param container: the base container; ``None``: only logs that are asked for are copied
    :param init_containers: names of init containers whose logs are asked for, or whether all are
    :param position: how far the base container's log was read before
    """

    def __init__(
        self,
        read: Callable[..., Any],
        write: Callable[[PodLine], None],
        *,
        container: str | None,
        init_containers: Sequence[str] | bool,
        position: LogPosition,
    ) -> None:
        self._read = read
        self._write = write
        self._is_read = container is not None
        self._init_containers = init_containers
        self._reader = LogReader(position)
        self._thread = LogThread(partial(read, container=container), self._reader, self._take)
        self._is_started = False
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def position(self) -> LogPosition:
        """How far the base container's log was read."""
        return self._reader.position

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, of the base container or of the init container that kept it from starting."""
        return tuple(self._tail)

    def start(self, story: PodStory) -> None:
        """Copy the logs of the init containers, and begin to follow the base container. It is up."""
        self._is_started = True
        self._copy_init_containers(story)
        if self._is_read:
            self._thread.start()

    def leave(self) -> None:
        """Write nothing more of the base container: the position stays what it is."""
        self._thread.leave()

    def finish(self, story: PodStory, ended: Exit) -> None:
        """Copy all that is left to copy of a pod that has ended, or does not start."""
        if ended.reason == "NodeLost":  # nobody is there to read it
            self.leave()
        elif not self._is_started:
            self._copy_why_not_started(story)
        elif self._is_read:
            self._thread.finish()

    def _copy_init_containers(self, story: PodStory) -> list[str]:
        """Copy the whole logs of those that are asked for and have ended; return their names."""
        pod, wanted = story.pod or {}, self._init_containers
        names = init_containers(pod, wanted)
        for name in names:
            write = partial(self._take_of if name == story.init_container else self._write_of, name)
            copy_log(partial(self._read, container=name), write, has_ended=True)
        if not isinstance(wanted, bool) and (unknown := set(wanted) - set(names)):
            log.warning(NO_SUCH_CONTAINER, ", ".join(sorted(unknown)))
        return names

    def _copy_why_not_started(self, story: PodStory) -> None:
        blamed = story.init_container
        copied = [] if story.is_stuck else self._copy_init_containers(story)
        if blamed is not None and blamed not in copied and self._is_read:
            read = partial(self._read, container=blamed, tail_lines=TAIL_LINES)
            copy_log(read, partial(self._take_of, blamed), has_ended=not story.is_stuck)

    def _take(self, line: PodLine) -> None:
        self._tail.append(masked(line.text))
        self._write(line)

    def _take_of(self, name: str, line: PodLine) -> None:
        self._tail.append(masked(line.text))
        self._write_of(name, line)

    def _write_of(self, name: str, line: PodLine) -> None:
        self._write(of_init_container(name, line))


def of_init_container(name: str, line: PodLine) -> PodLine:
    """Return a line as it stands in the task log, among those of the base container."""
    return replace(line, text=f"[{name}] {line.text}")
