# SPDX-License-Identifier: Apache-2.0
"""Log selection: which container logs of a pod go into the task log, and in what order. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.reports import TAIL_LINES
from airflow_asyncaction.runners.pods.exit_status import list_ended_init_containers
from airflow_asyncaction.runners.pods.lifecycle import PodLifecycle
from airflow_asyncaction.runners.pods.log import (
    LogPosition,
    LogReader,
    LogSteps,
    PodLine,
    follow_steps,
    snapshot_steps,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Which logs of a pod are copied.

    :param container: the base container
    :param get_logs: whether its log is copied
    :param init_containers: names of init containers whose logs are copied too, or whether all are
    :param position: how far the log of the base container was read before
    """

    container: str
    get_logs: bool
    init_containers: Sequence[str] | bool = False
    position: LogPosition = field(default_factory=LogPosition)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSource:
    """The log of one container.

    :param has_ended: whether the container has ended; if not, only what it has written so far is copied
    :param options: further options of the request that reads the log
    :param write: called with each line
    """

    container: str
    has_ended: bool
    options: dict[str, Any] = field(default_factory=dict)
    write: Callable[[PodLine], None]

    def steps(self, reader: LogReader) -> LogSteps:
        """Return the steps that copy the log: to its end, or as far as it is written now."""
        return follow_steps(reader, lambda: True) if self.has_ended else snapshot_steps()


class LogSelection:
    """Selects the logs to copy, and keeps the last lines for the error message.

    How it works: the requested logs of init containers are copied completely, before that of the base
    container. If an init container keeps the base container from starting, at least its last lines are
    copied. Lines of init containers get the container's name as a prefix.

    :param write: called with each line for the task log
    :param mask: removes secrets from a line
    :param warn: logs a warning; called with a format string and its argument
    """

    def __init__(
        self,
        options: LogOptions,
        lifecycle: PodLifecycle,
        *,
        write: Callable[[PodLine], None],
        mask: Callable[[str], str],
        warn: Callable[[str, str], object],
    ) -> None:
        self._options = options
        self._lifecycle = lifecycle
        self._write = write
        self._mask = mask
        self._warn = warn
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._are_init_logs_taken = False
        self.base = LogSource(
            container=options.container, has_ended=True, write=partial(self._write_line, None, in_tail=True)
        )
        """The log of the base container."""

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, of the base container or of the init container that kept it from starting."""
        return tuple(map(self._mask, self._tail))

    def take_init_sources(self) -> list[LogSource]:
        """Return the requested logs of init containers that have ended. Later calls return none."""
        if self._are_init_logs_taken:
            return []
        self._are_init_logs_taken = True
        requested = self._options.init_containers
        names = list_ended_init_containers(self._lifecycle.pod or {}, requested)
        if not isinstance(requested, bool) and (missing := set(requested) - set(names)):
            self._warn(
                "init_container_logs: these init containers do not exist or have not ended: %s",
                ", ".join(sorted(missing)),
            )
        blamed = self._lifecycle.blamed_init_container
        return [self._init_source(name, in_tail=name == blamed) for name in names]

    def take_remaining_sources(self, exit_: Exit | None) -> list[LogSource]:
        """Return the remaining logs of a pod that has ended or does not start, including :attr:`base`."""
        lifecycle = self._lifecycle
        if exit_ is not None and exit_.reason == "NodeLost" and exit_.code is None:
            return []  # the logs are lost with the node
        sources = [] if lifecycle.is_stuck else self.take_init_sources()
        if not self._options.get_logs:
            return sources
        if lifecycle.has_started:
            return [*sources, self.base]
        blamed = lifecycle.blamed_init_container
        if blamed is None or any(source.container == blamed for source in sources):
            return sources
        options = {"tail_lines": TAIL_LINES}
        source = self._init_source(blamed, in_tail=True, has_ended=not lifecycle.is_stuck, options=options)
        return [*sources, source]

    def _init_source(
        self, name: str, *, in_tail: bool, has_ended: bool = True, options: dict[str, Any] | None = None
    ) -> LogSource:
        write = partial(self._write_line, name, in_tail=in_tail)
        return LogSource(container=name, has_ended=has_ended, options=options or {}, write=write)

    def _write_line(self, init_container: str | None, line: PodLine, *, in_tail: bool) -> None:
        if in_tail:
            self._tail.append(line.text)
        if init_container is not None:
            line = replace(line, text=f"[{init_container}] {line.text}")
        self._write(line)
