# SPDX-License-Identifier: Apache-2.0
"""Uploads exactly one file."""

from __future__ import annotations

from airflow_asyncaction.job import open_job

with open_job() as job:
    job.upload("n", __file__)
