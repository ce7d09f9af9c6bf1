# SPDX-License-Identifier: Apache-2.0
"""The inputs and outputs of a wrapped program: fetched before it is started, uploaded after its end."""

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
from airflow_asyncaction.job.reporter import say
from airflow_asyncaction.protocol.files import DEFAULT_STORE, checked_property

FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
"""What a shell lets its background processes ignore: a job gets them nevertheless."""

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_UNHEARD = (signal.SIGUSR1, signal.SIGUSR2)  # they are the program's, and there is none
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Binding:
    """A property of the action, and where its files are or go: ``NAME=PATH``."""

    property: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Binding:
        """Read ``NAME=PATH``.

        :raises ValueError: it is not that
        """
        name, _, path = text.partition("=")
        if not path:
            raise ValueError(f"say NAME=PATH, not {text!r}")
        try:
            return cls(checked_property(name), path)
        except AsyncActionError as error:
            raise ValueError(f"{text!r}: {error}") from None


class TransferFailed(Exception):
    """An input could not be fetched, or an output not uploaded.

    :param name: of the error that is reported: ``InputFailed`` or ``OutputFailed``
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class TransferEnded(BaseException):
    """A signal came, or Airflow asked the job to stop, during a transfer. No ``except Exception`` holds it.

    :param number: of the signal; SIGTERM where Airflow asked
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def fetch_inputs(job: Job, inputs: Sequence[Binding]) -> None:
    """Fetch all inputs; the job reports meanwhile, and has no thread any more when this returns.

    :raises TransferFailed: one could not be fetched
    :raises TransferEnded: we were asked not to go on
    """
    if not inputs:
        return
    job.start()
    with _ended_by_signals(job, "inputs were fetched"):
        for binding in inputs:
            try:
                _fetch(job, binding)
            except (AsyncActionError, OSError) as error:
                message = f"Input {binding.property} could not be fetched to {binding.path}: {error}"
                raise TransferFailed("InputFailed", message) from error
    job.close()  # the program is to be forked from a process of one thread; the job starts again after it


def upload_outputs(job: Job, outputs: Sequence[Binding]) -> None:
    """Upload all outputs. Raises like :func:`fetch_inputs`, also for one that is missing."""
    with _ended_by_signals(job, "outputs were uploaded"):
        for binding in outputs:
            _upload(job, binding)


def upload_what_is_there(job: Job, outputs: Sequence[Binding]) -> None:
    """Upload the outputs of a program that has failed, as far as it got; what does not work is said only."""
    with contextlib.suppress(TransferEnded), _ended_by_signals(job, "outputs were uploaded"):
        for binding in outputs:
            try:
                _upload(job, binding)
            except TransferFailed as failure:
                say(str(failure))
                job.log(str(failure), "WARNING", stream="stderr")


def _fetch(job: Job, binding: Binding) -> None:
    if binding.path.endswith("/") or Path(binding.path).is_dir():
        job.download_all(binding.property, binding.path)
        return
    assert job.info is not None  # noqa: S101
    if has_file(job.send, FileProperty(binding.property, job.info.job_id, DEFAULT_STORE), 1):
        raise AsyncActionError(f"it has several files: give a folder, {binding.path}/")
    job.download(binding.property, binding.path)


def _upload(job: Job, binding: Binding) -> None:
    try:
        job.upload_all(binding.property, binding.path)
    except (AsyncActionError, OSError) as error:
        message = f"Output {binding.property} could not be uploaded from {binding.path}: {error}"
        raise TransferFailed("OutputFailed", message) from error


@contextlib.contextmanager
def _ended_by_signals(job: Job, doing: str) -> Iterator[None]:
    """Let signals, and Airflow's wish to stop, raise :exc:`TransferEnded` wherever the transfer is."""
    was_stopping = job.is_stopping()

    def end(number: int, _frame: FrameType | None) -> None:
        raise TransferEnded(number, f"{signal.Signals(number).name} came while {doing}")

    def look(_number: int, _frame: FrameType | None) -> None:
        if job.is_stopping() and not was_stopping:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise TransferEnded(signal.SIGTERM, f"Asked to stop while {doing}")

    handlers: dict[int, Any] = {
        **dict.fromkeys(_ENDING, end),
        **dict.fromkeys(_UNHEARD, lambda _number, _frame: None),
        signal.SIGALRM: look,
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
