# SPDX-License-Identifier: Apache-2.0
"""Test server for job programs: the job routes of the API server, in memory and without Airflow."""

from __future__ import annotations

from airflow_asyncaction.testing.job_server import JobServer
from airflow_asyncaction.testing.tested_job import TestedJob

__all__ = ["JobServer", "TestedJob"]
