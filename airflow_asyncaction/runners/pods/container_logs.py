# SPDX-License-Identifier: Apache-2.0
"""Container logs of a pod, as a worker copies them into the task log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial

from airflow_asyncaction.hooks.known_secrets import masked
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.runners.pods.api import ResponseStream
from airflow_asyncaction.runners.pods.api_requests import ClusterError
from airflow_asyncaction.runners.pods.lifecycle import PodLifecycle
from airflow_asyncaction.runners.pods.log import (
    LogPosition,
    LogReader,
    LogReadResult,
    LogSteps,
    Pause,
    PodLine,
    ReadLog,
    follow_steps,
)
from airflow_asyncaction.runners.pods.log_selection import LogOptions, LogSelection, LogSource

log = logging.getLogger(__name__)

OpenLog = Callable[..., ResponseStream]
"""Opens the log of a container. Called with ``follow`` and, optionally, ``since_seconds``."""


class ContainerLogs:
    """Follows the log of the base container in a thread, and copies those of init containers.

    :param open_log: opens the log of the pod's ``container``, with more options
    :param write: called with each line for the task log
    """

    def __init__(
        self,
        open_log: OpenLog,
        write: Callable[[PodLine], None],
        options: LogOptions,
        lifecycle: PodLifecycle,
    ) -> None:
        self._open_log = open_log
        self._get_logs = options.get_logs
        self._selection = LogSelection(options, lifecycle, write=write, mask=masked, warn=log.warning)
        self._reader = LogReader(options.position)
        base = self._selection.base
        self._thread = LogThread(partial(open_log, container=base.container), self._reader, base.write)

    @property
    def position(self) -> LogPosition:
        """How far the log of the base container was read."""
        return self._reader.position

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, of the base container or of the init container that kept it from starting."""
        return self._selection.tail

    def start(self) -> None:
        """Copy the logs of the init containers, and begin to follow the base container, which is running."""
        for source in self._selection.take_init_sources():
            self._copy(source)
        if self._get_logs:
            self._thread.start()

    def detach(self) -> None:
        """Stop writing lines of the base container. The position no longer changes."""
        self._thread.detach()

    def finish(self, exit_: Exit) -> None:
        """Copy the remaining logs of a pod that has ended or does not start."""
        self.detach()
        for source in self._selection.take_remaining_sources(exit_):
            if source is self._selection.base:
                self._thread.finish()
            else:
                self._copy(source)

    def _copy(self, source: LogSource) -> None:
        reader = LogReader()
        open_log = partial(self._open_log, container=source.container, **source.options)
        copy_log(open_log, source.steps(reader), reader, source.write)


class LogThread:
    """Follows a log in a thread until the caller stops it, or reads the rest itself.

    Purpose: a stream that follows a log may end seconds after its container. The caller, which knows that the
    container has ended, must not wait for that.

    How it works: the thread reads and writes chunk by chunk under a lock. When the caller takes over the log,
    the thread keeps its stream, discards the next chunk and ends.
    """

    def __init__(self, open_log: OpenLog, reader: LogReader, write: Callable[[PodLine], None]) -> None:
        self._open_log = open_log
        self._reader = reader
        self._write = write
        self._lock = threading.Lock()
        self._is_detached = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asyncaction-pod-log", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def detach(self) -> None:
        """Stop writing. The reader's position no longer changes."""
        with self._lock:
            self._is_detached.set()

    def finish(self) -> None:
        """Read the log to its end, in the calling thread. The container has ended."""
        self.detach()
        copy_log(self._open_log, follow_steps(self._reader, lambda: True), self._reader, self._write)

    def _run(self) -> None:
        steps = follow_steps(self._reader, lambda: False)
        with suppress(_Detached):
            copy_log(
                self._open_log,
                steps,
                self._reader,
                self._write,
                guard=self._guard,
                pause=self._is_detached.wait,
            )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with self._lock:
            if self._is_detached.is_set():
                raise _Detached
            yield


def copy_log(
    open_log: OpenLog,
    steps: LogSteps,
    reader: LogReader,
    write: Callable[[PodLine], None],
    *,
    guard: Callable[[], AbstractContextManager[object]] = nullcontext,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Perform the steps, and write the new lines of the log. Blocks.

    :param write: called with each line; an exception that it raises ends the copy
    :param guard: entered around each use of ``reader`` and ``write``
    """
    result: LogReadResult | None = None
    while True:
        try:
            step = steps.send(result)
        except StopIteration:
            break
        if isinstance(step, Pause):
            pause(step.seconds)
            result = None
        else:
            result = _read(open_log, step, reader, write, guard)
    with guard():
        for line in reader.finish():
            write(line)


class _Detached(Exception):
    """Another thread has taken over the log."""


def _read(
    open_log: OpenLog,
    step: ReadLog,
    reader: LogReader,
    write: Callable[[PodLine], None],
    guard: Callable[[], AbstractContextManager[object]],
) -> LogReadResult:
    with guard():
        reader.begin(reads_all=step.reads_all)
    try:
        with open_log(follow=step.follow, since_seconds=step.since_seconds) as stream:
            for chunk in stream:
                with guard():
                    for line in reader.feed(chunk):
                        write(line)
                if reader.has_gap:
                    break
    except ClusterError as error:
        return reader.classify_failure(error)
    return LogReadResult.ENDED
