# SPDX-License-Identifier: Apache-2.0
"""Submits its work to a background process, and exits."""

from __future__ import annotations

import subprocess
import sys

WORK = (
    "import time; from airflow_asyncaction.job import open_job; time.sleep(1.5); open_job().result('later')"
)

subprocess.Popen(
    [sys.executable, "-c", WORK], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
)
