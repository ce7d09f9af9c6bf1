# SPDX-License-Identifier: Apache-2.0
"""Job client: lets a program report to Airflow. Needs only the standard library.

from airflow_asyncaction.job import open_job

with open_job() as job:
    job.progress(40, "loading")
    job.log("half of the rows are loaded")
    job.result({"rows": load(job.arguments)})
"""

from __future__ import annotations

from airflow_asyncaction.exceptions import JobInfoError, ServerError, ServerUnreachable, Superseded
from airflow_asyncaction.job.client import Job, current_job, open_job, use_job
from airflow_asyncaction.job.file_transfer import File
from airflow_asyncaction.job.reporter import Timing
from airflow_asyncaction.job.transport import Request
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.reports import LogLine

__all__ = [
    "File",
    "Job",
    "JobInfo",
    "JobInfoError",
    "LogLine",
    "Request",
    "ServerError",
    "ServerUnreachable",
    "Superseded",
    "Timing",
    "current_job",
    "open_job",
    "use_job",
]
