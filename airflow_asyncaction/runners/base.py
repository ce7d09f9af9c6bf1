# SPDX-License-Identifier: Apache-2.0
"""What every runner does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit

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

    def run(self, info: JobInfo, on_launched: OnLaunched) -> Exit:
        """Start the job, and return how it ended once it has. Called in the main thread."""

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
        """Let go of what still runs now that the action has ended well: nothing of it is to be stopped.

        It matters under ``completion="report"`` alone. Called after :meth:`run` has returned.
        """
