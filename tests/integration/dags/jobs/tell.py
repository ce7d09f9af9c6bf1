# SPDX-License-Identifier: Apache-2.0
"""Reports how it was started as its result."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from airflow_asyncaction.job import open_job

with open_job() as job:
    job.progress(50, "half way")
    job.log("reported by tell.py")
    sys.stdout.write("printed by tell.py\n")
    job.result(
        {
            "argv": sys.argv[1:],
            "cwd": str(Path.cwd()),
            "greeting": os.environ.get("GREETING"),
            "airflow": sorted(name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_"))),
            "arguments": job.arguments,
            "job": sorted(name for name in os.environ if name.startswith("JOB_")),
            "in_environment": "JOB_ARGUMENTS" in os.environ,
        }
    )
