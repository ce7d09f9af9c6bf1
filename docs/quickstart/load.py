# SPDX-License-Identifier: Apache-2.0
"""Quick start: the job in Python, which needs only the standard library."""

from __future__ import annotations

import time

from airflow_asyncaction.job import open_job

with open_job() as job:
    for percent in (25, 50, 75):
        time.sleep(1)  # the work
        job.progress(percent, "loading")
        job.log(f"loaded a part of {job.arguments['table']}")
    job.result({"rows": 1200})
