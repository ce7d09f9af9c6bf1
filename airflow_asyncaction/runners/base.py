# SPDX-License-Identifier: Apache-2.0
"""What every runner does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit

_AIRFLOW_PREFIXES = ("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_", "_AIRFLOW_", "__AIRFLOW_")

OnLaunched = Callable[[Mapping[str, Any]], None]
"""Takes what identifies the job (host, pid, pod) once it is up; must not block."""


class Runner(Protocol):
    """Starts one job, watches it and stops it. One runner runs one job, once.

    It decides nothing about the action: it says how the job ended, and ``lifecycle.decide`` says what that
    means.
    """

    name: str
    """Name of the kind of runner: ``local``, ``service`` or ``kubernetes``."""

    copies_reported_logs: bool
    """Whether reported log lines must be fetched from the server to be seen in the task log."""

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit | None:
        """Start the job, and return how it ended once it has. Called in the main thread.

        ``None``: it is let go, and goes on (:class:`AdoptableRunner`).

        An exception that leaves it, such as Airflow's ``execution_timeout``, does not end a process or pod.
        The caller tells the server first why the job is to end, and then calls :meth:`stop` and :meth:`wait`:
        a job that reports the moment it gets SIGTERM would else seem to have failed by itself.
        """

    def stop(self) -> None:
        """Begin to end the job, and everything it started, and return at once.

        SIGTERM or its like first, SIGKILL or its like after the grace. It may be called more than once,
        before :meth:`run`, after the end, from another thread and from a signal handler.
        """

    def wait(self) -> Exit | None:
        """Return how the job ended, once all of it has; ``None`` if it was never started.

        For when :meth:`run` was interrupted, or has returned while work goes on; called in the same thread.
        """

    def release(self) -> None:
        """Clear up now that the server knows the end, and let go of what still runs: it is not to be stopped.

        Something may run on under ``completion="report"`` alone. Called after :meth:`run` has returned.
        """


@runtime_checkable
class AdoptableRunner(Runner, Protocol):
    """A runner whose jobs outlive their workers. Its :meth:`run` adopts the action's job if it is there."""

    def expect_job(self) -> None:
        """Note that the action's job was started before: :meth:`run` is not to start another one."""

    def detach(self) -> None:
        """Make :meth:`run` return ``None`` soon: the worker is gone, and the next try adopts the job."""


def drop_airflow_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment without the variables that contain, or lead to, Airflow's secrets."""
    return {name: value for name, value in environ.items() if not name.startswith(_AIRFLOW_PREFIXES)}
