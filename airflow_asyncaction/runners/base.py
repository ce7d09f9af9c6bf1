# SPDX-License-Identifier: Apache-2.0
"""Runner interface: starts, watches and stops one job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit

_AIRFLOW_PREFIXES = ("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_", "_AIRFLOW_", "__AIRFLOW_")

OnLaunched = Callable[[Mapping[str, Any]], None]
"""Takes what identifies the job (host, pid, pod) once it has started; must not block."""


class Runner(Protocol):
    """Starts one job, watches it and stops it. One runner runs one job, once.

    It decides nothing about the action: it returns how the job ended, and ``lifecycle.decide`` decides what
    that means.
    """

    name: str
    """Kind of the runner: ``local``, ``service`` or ``kubernetes``."""

    copies_reported_logs: bool
    """Whether reported log lines must be fetched from the server to appear in the task log."""

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit | None:
        """Start the job, and return how it ended once it has. Called in the main thread.

        ``None`` means that the job still runs, and this runner no longer watches it
        (:class:`AdoptableRunner`).

        An exception that leaves it, such as Airflow's ``execution_timeout``, does not end a process or pod.
        The caller first tells the server why the job must end, and then calls :meth:`stop` and :meth:`wait`.
        Otherwise a job that reports as soon as it receives SIGTERM would seem to have failed by itself.
        """

    def stop(self) -> None:
        """Begin to end the job and everything it started, and return at once.

        SIGTERM or its equivalent comes first, SIGKILL or its equivalent after the grace period. May be called
        more than once, before :meth:`run`, after the end, from another thread and from a signal handler.
        """

    def wait(self) -> Exit | None:
        """Return how the job ended, once all of it has; ``None`` if it was never started.

        Used when :meth:`run` was interrupted, or returned while work continues. Called in the same thread.
        """

    def release(self) -> None:
        """Clean up once the server knows the end, and leave running what still runs.

        Only ``completion="report"`` leaves work running. Called after :meth:`run` has returned.
        """


@runtime_checkable
class AdoptableRunner(Runner, Protocol):
    """A runner whose jobs outlive their workers. Its :meth:`run` adopts the action's job if that exists."""

    def expect_job(self) -> None:
        """Note that the action's job was started before: :meth:`run` must not start another one."""

    def detach(self) -> None:
        """Make :meth:`run` return ``None`` soon: the worker has died, and the next try adopts the job."""


def drop_airflow_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment without the variables that contain, or lead to, Airflow's secrets."""
    return {name: value for name, value in environ.items() if not name.startswith(_AIRFLOW_PREFIXES)}
