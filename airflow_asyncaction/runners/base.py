# SPDX-License-Identifier: Apache-2.0
"""Runner: the interface that all runners implement, and exit codes that skip a task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit

OnLaunched = Callable[[Mapping[str, Any]], None]
"""Takes what identifies a job (host, pid, pod) once it is up. Must not block."""

_EXIT_CODES = range(256)


class Runner(Protocol):
    """Starts, watches and stops one job. A runner is used once.

    It does not decide how the action ends: it returns the job's exit, and ``lifecycle.decide`` decides.
    """

    name: str
    """The runner's kind: ``local``, ``service``, ``kubernetes``, or any other name for a custom runner."""

    copies_reported_logs: bool
    """Whether the operator must copy reported log lines from the server into the task log."""

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit | None:
        """Start the job, wait for it, and return its exit. Called in the main thread.

        Return ``None`` to stop watching a job that still runs (:class:`AdoptableRunner`).

        An exception raised in here, such as Airflow's ``execution_timeout``, must not stop the process or
        pod. The caller first tells the server why the job must stop, then calls :meth:`stop` and
        :meth:`wait`. Otherwise, an error that the job reports on SIGTERM would count as its own failure.
        """

    def stop(self) -> None:
        """Begin to stop the job and everything it started, and return at once.

        Send SIGTERM or its equivalent, then SIGKILL or its equivalent after the grace period. This may be
        called repeatedly, before :meth:`run`, after the exit, from other threads and from signal handlers.
        """

    def wait(self) -> Exit | None:
        """Wait until all of the job has ended, and return its exit; ``None`` if it was never started.

        Called in the same thread after :meth:`run` was interrupted, or returned while work goes on.
        """

    def release(self) -> None:
        """Clean up, because the server knows the exit. Do not stop work that is still running.

        Only jobs with ``completion="report"`` leave work running. Called after :meth:`run` has returned.
        """


@runtime_checkable
class AdoptableRunner(Runner, Protocol):
    """A runner whose jobs outlive their workers. Its :meth:`run` adopts the action's job if there is one."""

    def expect_job(self) -> None:
        """Make :meth:`run` adopt the existing job, and never start another one."""

    def leave_job(self) -> None:
        """Make :meth:`run` return ``None`` soon and leave the job running: the next attempt adopts it."""


def parse_skip_codes(given: Any) -> tuple[int, ...]:
    """Return the exit codes of ``skip_on_exit_code``, sorted.

    :param given: an exit code, a container of exit codes, or ``None``
    :raises ValueError: it is something else
    """
    if given is None:
        return ()
    is_code = isinstance(given, int) and not isinstance(given, bool)
    codes = [given] if is_code else given
    if isinstance(codes, str | bytes) or not isinstance(codes, Container):
        raise _invalid_codes(given)
    if isinstance(codes, Collection) and not all(code in _EXIT_CODES for code in codes):
        raise _invalid_codes(given)
    return tuple(code for code in _EXIT_CODES if code in codes)


def mark_skip(exit_: Exit, skip_codes: Collection[int]) -> Exit:
    """Return an exit, marked as a skip if its code is one of ``skip_on_exit_code``."""
    if exit_.reason is None and exit_.code in skip_codes:
        return replace(exit_, is_skip=True)
    return exit_


def _invalid_codes(given: Any) -> ValueError:
    return ValueError(
        f"skip_on_exit_code is {given!r}: it must be an exit code from 0 to 255, or a list of these"
    )
