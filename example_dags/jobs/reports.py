# SPDX-License-Identifier: Apache-2.0
"""A callable for actions of the types report.*, called with their arguments."""

from __future__ import annotations

from airflow_asyncaction.job import Job


def total(numbers: list[int], job: Job) -> int:
    job.progress(100, f"{len(numbers)} numbers")
    return sum(numbers)
