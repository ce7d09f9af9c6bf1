# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs of a wrapped program: downloaded before it starts, uploaded after it ends."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from airflow_asyncaction.exceptions import AsyncActionError
from airflow_asyncaction.job.client import Job
from airflow_asyncaction.job.files import FileProperty, has_file
from airflow_asyncaction.job.stderr import print_stderr
from airflow_asyncaction.protocol.files import DEFAULT_STORE

FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
"""Signals that shells ignore in background processes. Jobs handle them nevertheless."""

_INTERRUPTING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED = (signal.SIGUSR1, signal.SIGUSR2)  # for the program, which is not running
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Binding:
    """A property of the action and a local path: ``NAME=PATH``."""

    property: str
    path: str


class TransferFailed(Exception):
    """An input could not be downloaded, or an output could not be uploaded.

    :param name: error name to report: ``InputFailed`` or ``OutputFailed``
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class TransferInterrupted(BaseException):
    """A signal or a stop of the job interrupted a transfer. ``except Exception`` does not catch it.

    :param number: number of the signal; SIGTERM if Airflow stopped the job
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def fetch_inputs(job: Job, inputs: Sequence[Binding]) -> None:
    """Download all inputs. The job sends reports meanwhile; its thread has ended when this returns.

    :raises TransferFailed: an input could not be downloaded
    :raises TransferInterrupted: a signal or a stop interrupted the transfer
    """
    if not inputs:
        return
    job.start()
    with _interrupted_by_signals(job, "downloading inputs"):
        for binding in inputs:
            try:
                _fetch(job, binding)
            except (AsyncActionError, OSError) as error:
                message = f"Input {binding.property} could not be downloaded to {binding.path}: {error}"
                raise TransferFailed("InputFailed", message) from error
    job.close()  # only a process with a single thread can fork safely; the job starts again afterwards


def upload_outputs(job: Job, outputs: Sequence[Binding]) -> None:
    """Upload all outputs. Raises like :func:`fetch_inputs`, also for a missing output."""
    with _interrupted_by_signals(job, "uploading outputs"):
        for binding in outputs:
            _upload(job, binding)


def upload_existing_outputs(job: Job, outputs: Sequence[Binding]) -> None:
    """Upload the existing outputs of a program that failed or was stopped. Errors are only logged."""
    with contextlib.suppress(TransferInterrupted), _interrupted_by_signals(job, "uploading outputs"):
        for binding in outputs:
            try:
                _upload(job, binding)
            except TransferFailed as failure:
                print_stderr(str(failure))
                job.log(str(failure), "WARNING", stream="stderr")


def _fetch(job: Job, binding: Binding) -> None:
    if binding.path.endswith("/") or Path(binding.path).is_dir():
        job.download_all(binding.property, binding.path)
        return
    assert job.info is not None  # noqa: S101
    if has_file(job.send, FileProperty(binding.property, job.info.job_id, DEFAULT_STORE), 1):
        raise AsyncActionError(f"the property has several files. Specify a folder: {binding.path}/")
    job.download(binding.property, binding.path)


def _upload(job: Job, binding: Binding) -> None:
    try:
        job.upload_all(binding.property, binding.path)
    except (AsyncActionError, OSError) as error:
        message = f"Output {binding.property} could not be uploaded from {binding.path}: {error}"
        raise TransferFailed("OutputFailed", message) from error


@contextlib.contextmanager
def _interrupted_by_signals(job: Job, activity: str) -> Iterator[None]:
    """Make signals and a stop of the job raise :exc:`TransferInterrupted` anywhere in the transfer."""
    was_stopping = job.is_stopping()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise TransferInterrupted(
            number, f"The wrapper received {signal.Signals(number).name} while {activity}"
        )

    def check_stop(_number: int, _frame: FrameType | None) -> None:
        if job.is_stopping() and not was_stopping:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise TransferInterrupted(signal.SIGTERM, f"The job was asked to stop while {activity}")

    handlers: dict[int, Any] = {
        **dict.fromkeys(_INTERRUPTING, interrupt),
        **dict.fromkeys(_IGNORED, lambda _number, _frame: None),
        signal.SIGALRM: check_stop,
    }
    earlier = {number: signal.getsignal(number) or signal.SIG_DFL for number in handlers}
    try:
        for number, handler in handlers.items():
            if earlier[number] is not signal.SIG_IGN or number in (*FROM_TERMINAL, signal.SIGALRM):  # nohup
                signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, _POLL_SECONDS, _POLL_SECONDS)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in earlier.items():
            signal.signal(number, handler)
