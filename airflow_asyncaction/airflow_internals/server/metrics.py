# SPDX-License-Identifier: Apache-2.0
"""Metrics: Airflow's StatsD or OpenTelemetry client.

Uses: ``airflow.observability.stats`` (``incr``, ``gauge``, ``timing``, ``normalize_name_for_stats``,
``initialize``), ``airflow.observability.metrics.stats_utils``.

Checked with Airflow 3.3.2.

Airflow initializes the client in its servers, but not in commands: these call :func:`initialize`. A custom
client may raise any exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from airflow.configuration import conf
from airflow.observability import stats


def initialize() -> None:
    """Initialize the client in a command."""
    from airflow.observability.metrics import stats_utils

    stats.initialize(
        factory=stats_utils.get_stats_factory(),
        export_legacy_names=conf.getboolean("metrics", "legacy_names_on", fallback=True),
    )


def increment(name: str, tags: Mapping[str, str]) -> None:
    """Add one to a counter."""
    stats.incr(name, tags=dict(tags))


def set_gauge(name: str, value: float, tags: Mapping[str, str] | None = None) -> None:
    """Set a gauge."""
    stats.gauge(name, value, tags=None if tags is None else dict(tags))


def record_duration(name: str, duration: timedelta, tags: Mapping[str, str] | None = None) -> None:
    """Record a duration."""
    stats.timing(name, duration, tags=None if tags is None else dict(tags))


def tag_value(text: str) -> str:
    """Return a text as a tag value: characters that are invalid in tags are replaced."""
    return stats.normalize_name_for_stats(text, log_warning=False)
