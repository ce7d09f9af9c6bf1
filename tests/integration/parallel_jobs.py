# SPDX-License-Identifier: Apache-2.0
"""Jobs that report from many threads at the same moment, and what the database then contains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import func, select

from airflow_asyncaction.store.models import action_table, report_table
from tests.integration.databases import Database
from tests.integration.signed_jobs import Answer, HookClient, SignedJob

T = TypeVar("T")


def at_once(
    job: SignedJob, count: int, do: Callable[[SignedJob, int], T], *, hooks: Sequence[str] = ()
) -> list[T]:
    """Call a function in ``count`` threads at the same moment, each with its own connection.

    :param hooks: servers among which the threads are distributed; by default that of the job
    """
    barrier = threading.Barrier(count)
    hooks = hooks or [job.client.hook]

    def work(number: int) -> T:
        with HookClient(hooks[number % len(hooks)]) as client:
            barrier.wait()
            return do(job.on(client), number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def until_taken(send: Callable[[], Answer]) -> Answer:
    """Resend while the server is unavailable, as every client must."""
    while (answer := send()).status == 503:
        assert answer.headers["retry-after"]
    return answer


def report_counts(database: Database, job: SignedJob) -> tuple[int, int, int]:
    """Return the rows of reports, the number that the action counts, and that of its log lines."""
    ours = report_table.c.action_id == job.info.job_id
    counts = select(action_table.c.report_count, action_table.c.log_lines).where(
        action_table.c.id == job.info.job_id
    )
    with database.engine.connect() as connection:
        stored = connection.scalar(select(func.count()).select_from(report_table).where(ours))
        counted, lines = connection.execute(counts).one()
    return stored or 0, counted, lines


def lines_of(job: SignedJob) -> list[str]:
    """Return all log lines, page by page; their numbers must have no gap."""
    lines: list[str] = []
    while True:
        view = job.view(after=len(lines))
        assert view.first_line == len(lines) + 1
        lines += [line.message for line in view.logs]
        if not view.has_more_logs:
            return lines
