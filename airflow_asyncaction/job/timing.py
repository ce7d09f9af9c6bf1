# SPDX-License-Identifier: Apache-2.0
"""Timing: when a job sends its reports, and for how long it resends them."""

from __future__ import annotations

from airflow_asyncaction.protocol.compat import keyword_dataclass


@keyword_dataclass
class Timing:
    """Intervals and timeouts of a job's requests.

    :param heartbeat_seconds: send a heartbeat this long after the last report
    :param flush_seconds: how long log lines and progress are collected before they are sent
    :param report_patience_seconds: how long to resend the terminal report, and requests the job waits for
    :param exit_patience_seconds: how long to resend the last log lines of a job that ends without a terminal
        report
    :param timeout_seconds: for connecting, and for each read from the server
    """

    heartbeat_seconds: float = 10.0
    flush_seconds: float = 1.0
    report_patience_seconds: float = 330.0
    exit_patience_seconds: float = 30.0
    timeout_seconds: float = 10.0
