# SPDX-License-Identifier: Apache-2.0
"""Test servers for job programs: the API server's job routes, in memory and without Airflow."""

from __future__ import annotations

from airflow_asyncaction.testing.job_server import JobServer, TestedJob

__all__ = ["JobServer", "TestedJob"]
