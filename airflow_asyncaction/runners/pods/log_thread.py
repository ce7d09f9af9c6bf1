# SPDX-License-Identifier: Apache-2.0
"""Drives ``pod_log`` in a worker: reads a container's log, in the calling thread or in one of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from http.client import HTTPException
from typing import Any

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from airflow_asyncaction.runners.pods.api import said
from airflow_asyncaction.runners.pods.api_advice import advised
from airflow_asyncaction.runners.pods.log import LogReader, Outcome, Pause, PodLine, Read, log_steps

log = logging.getLogger(__name__)

_READ_TIMEOUTS_SECONDS = (10, 300)
_CHUNK_BYTES = 64 * 1024


def follow_log(
    read: Callable[..., Any],
    reader: LogReader,
    write: Callable[[PodLine], None],
    has_ended: Callable[[], bool],
    *,
    guard: Callable[[], AbstractContextManager[object]] = nullcontext,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Pass a log on until the container has ended and all of it was read. Blocks.

    :param read: calls ``read_namespaced_pod_log`` for the container with more options
    :param write: takes each line; what it raises ends this
    :param guard: entered around each use of ``reader`` and ``write``
    """
    steps = log_steps(reader, has_ended)
    outcome: Outcome | None = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration:
            break
        if isinstance(step, Pause):
            pause(step.seconds)
            outcome = None
        else:
            outcome = _read(read, step, reader, write, guard)
    with guard():
        for line in reader.finish():
            write(line)


def copy_log(read: Callable[..., Any], write: Callable[[PodLine], None], *, has_ended: bool) -> None:
    """Pass on all of a log that there is now; what its container still writes is left.

    :param has_ended: whether the container has: then its runtime may be late with the last lines
    """
    reader = LogReader()
    if has_ended:
        follow_log(read, reader, write, lambda: True)
        return
    _read(read, Read(follow=False, since_seconds=None), reader, write, nullcontext)
    for line in reader.finish():
        write(line)


class LogThread:
    """Follows a log in a thread until it is left, or finished by the caller.

    Purpose: who sees that the container has ended must not wait until the stream that follows its log does.

    How it works: the thread reads and writes a piece at a time under a lock; whoever takes the log from it
    leaves it alone with its stream, whose lines it drops.
    """

    def __init__(self, read: Callable[..., Any], reader: LogReader, write: Callable[[PodLine], None]) -> None:
        self._read = read
        self._reader = reader
        self._write = write
        self._lock = threading.Lock()
        self._is_left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asyncaction-pod-log", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def leave(self) -> None:
        """Write nothing more: the reader's position stays what it is."""
        with self._lock:
            self._is_left.set()

    def finish(self) -> None:
        """Read the log to its end, in the calling thread. The container has ended."""
        self.leave()
        follow_log(self._read, self._reader, self._write, lambda: True)

    def _run(self) -> None:
        with suppress(_Left):
            follow_log(
                self._read,
                self._reader,
                self._write,
                lambda: False,
                guard=self._guard,
                pause=self._is_left.wait,
            )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with self._lock:
            if self._is_left.is_set():
                raise _Left
            yield


class _Left(Exception):
    """The log is read by somebody else now."""


def _read(
    read: Callable[..., Any],
    step: Read,
    reader: LogReader,
    write: Callable[[PodLine], None],
    guard: Callable[[], AbstractContextManager[object]],
) -> Outcome:
    options: dict[str, Any] = {} if step.since_seconds is None else {"since_seconds": step.since_seconds}
    with guard():
        reader.begin(reads_all=step.since_seconds is None)
    try:
        response = read(
            follow=step.follow,
            timestamps=True,
            _preload_content=False,
            _request_timeout=_READ_TIMEOUTS_SECONDS,
            **options,
        )
        with closing(response):
            for chunk in response.stream(amt=_CHUNK_BYTES, decode_content=False):
                with guard():
                    for line in reader.feed(chunk):
                        write(line)
                if reader.has_gap:
                    break
            else:
                response.release_conn()
    except ApiException as error:
        if error.status in (400, 404):
            return Outcome.ABSENT
        if not reader.is_refused:
            log.warning("The pod's log cannot be read now: %s", advised(said(error), error.status))
        reader.is_refused = True
        return Outcome.BROKE
    except (HTTPError, HTTPException, OSError):
        return Outcome.BROKE
    return Outcome.ENDED
