# SPDX-License-Identifier: Apache-2.0
"""Runner interface: starts, watches and stops one job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit

_AIRFLOW_PREFIXES = ("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_", "_AIRFLOW_", "__AIRFLOW_")

OnLaunched = Callable[[Mapping[str, Any]], None]
"""Called once the job has started, with what identifies it (host, pid, pod). It must not block."""


class Runner(Protocol):
    """Starts, watches and stops one job. A runner is used once.

    It decides nothing about the action: it returns how the job ended, and ``lifecycle.decide`` decides what
    that means.
    """

    name: str
    """Kind of the runner: ``local``, ``service`` or ``kubernetes``."""

    copies_reported_logs: bool
    """Whether reported log lines must be fetched from the server to appear in the task log."""

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit | None:
        """Start the job, wait for it, and return its exit. Called in the main thread.

        ``None`` means that the job is still running, and this runner no longer watches it
        (:class:`AdoptableRunner`).

        An exception that it raises, such as Airflow's ``execution_timeout``, does not end the process or pod.
        The caller first reports why the job must end, and then calls :meth:`stop` and :meth:`wait`.
        Otherwise a job that reports as soon as it receives SIGTERM would seem to have failed by itself.
        """

    def stop(self) -> None:
        """Begin to terminate the job and everything that it started, and return at once.

        SIGTERM or its equivalent comes first, SIGKILL or its equivalent after the grace period. May be called
        more than once, before :meth:`run`, after the end, from another thread and from a signal handler.
        """

    def wait(self) -> Exit | None:
        """Wait until all processes of the job have ended. Return its exit, or ``None`` if it never started.

        Used when :meth:`run` was interrupted, or returned while work continues. Called in the same thread.
        """

    def release(self) -> None:
        """Clean up once the server knows the end. Processes that still run keep running.

        Only ``completion="report"`` leaves such processes. Called after :meth:`run` has returned.
        """


@runtime_checkable
class AdoptableRunner(Runner, Protocol):
    """A runner whose jobs outlive their workers. Its :meth:`run` adopts the action's job if that exists."""

    def expect_job(self) -> None:
        """Note that the action's job was started before: :meth:`run` must not start another one."""

    def detach(self) -> None:
        """Make :meth:`run` return ``None`` soon. The job keeps running, and the next try adopts it."""


def drop_airflow_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment without the variables that contain, or lead to, Airflow's secrets."""
    return {name: value for name, value in environ.items() if not name.startswith(_AIRFLOW_PREFIXES)}
