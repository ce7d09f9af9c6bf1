# SPDX-License-Identifier: Apache-2.0
"""Tested jobs: what the test server received from them."""

from __future__ import annotations

from airflow_asyncaction.testing import TestedJob


def sent_logs(tested: TestedJob) -> list[str]:
    """Return the text of the log lines that the server received."""
    return [line.message for line in tested.logs]
