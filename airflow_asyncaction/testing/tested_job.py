# SPDX-License-Identifier: Apache-2.0
"""Tested jobs: actions of a :class:`~airflow_asyncaction.testing.JobServer`, as a test sees them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_asyncaction.protocol.actions import Action, StopReason
from airflow_asyncaction.protocol.decisions import Accepted, EarlierReport
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit, Message, Stop, Supersede, decide
from airflow_asyncaction.protocol.reports import LogLine, Report
from airflow_asyncaction.protocol.signing import Claim
from airflow_asyncaction.testing.files import InMemoryFiles, StoredFile


@dataclass(frozen=True)
class Received:
    """One request, and the status of its response."""

    claim: Claim
    method: str
    path: str
    body: bytes
    status: int


@dataclass
class TestedJob:
    """An action of the server.

    :param reports: accepted reports, without duplicates
    :param requests: all requests with a valid signature
    :param earlier: earlier reports by nonce, for duplicates
    :param changed: lock of this job, notified about each change
    """

    __test__ = False  # not a test case, despite its name

    info: JobInfo
    action: Action
    _files: InMemoryFiles = field(repr=False)
    reports: list[Report] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)
    earlier: dict[str, EarlierReport] = field(default_factory=dict, repr=False)
    changed: threading.Condition = field(default_factory=threading.Condition, repr=False)

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables for the job's program."""
        return self.info.to_environ()

    @property
    def logs(self) -> list[LogLine]:
        """All reported log lines, in order of arrival."""
        with self.changed:
            return [line for report in self.reports for line in report.logs]

    @property
    def files(self) -> Mapping[str, list[StoredFile]]:
        """Attached files by property, in order of their indexes. Unknown properties have an empty list."""
        return self._files.of(self.info.job_id)

    def add_file(
        self,
        property: str,  # noqa: A002
        name: str,
        content: bytes,
        **fields: Any,
    ) -> None:
        """Attach a file that the job can download.

        :param fields: further fields of :class:`StoredFile`
        """
        self._files.add(self.info.job_id, property, StoredFile(name, content, **fields))

    def stop(self, reason: StopReason = StopReason.REQUESTED) -> None:
        """Ask the job to stop: the response to its next report has the verb STOP."""
        self.send_message(Stop(reason))

    def supersede(self) -> None:
        """Let a newer attempt take over: the response to the next report is 410."""
        self.send_message(Supersede())

    def exit(self, exit_: Exit) -> None:
        """Report how the job's process ended, like a runner."""
        self.send_message(exit_)

    def send_message(self, message: Message) -> None:
        """Apply a message other than a report."""
        with self.changed:
            decision = decide(self.action, message, datetime.now(UTC))
            if isinstance(decision, Accepted):
                self.action = decision.action
            self.changed.notify_all()

    def wait_until(self, is_met: Callable[[TestedJob], object], timeout_seconds: float = 60.0) -> None:
        """Wait until a condition is met. It is checked after each request.

        :raises TimeoutError: the condition was not met in time
        """
        with self.changed:
            if not self.changed.wait_for(lambda: is_met(self), timeout_seconds):
                state = f"The action is {self.action.state}, and its last log lines are {self.logs[-3:]}"
                raise TimeoutError(f"The condition was not met in {timeout_seconds:g} s. {state}")
