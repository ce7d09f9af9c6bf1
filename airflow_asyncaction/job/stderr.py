# SPDX-License-Identifier: Apache-2.0
"""Messages of the job client on stderr."""

from __future__ import annotations

import contextlib
import sys

NOT_A_JOB = "No JOB_ variables are set, so Airflow did not start this process: nothing is reported"


def print_stderr(text: str) -> None:
    """Print one line to stderr. Do nothing if stderr is closed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"airflow-asyncaction: {text}\n")
        sys.stderr.flush()
