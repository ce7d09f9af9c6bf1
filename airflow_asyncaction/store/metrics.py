# SPDX-License-Identifier: Apache-2.0
"""Metrics: names, descriptions, and functions that record them with Airflow's own client.

Functions that record metrics never raise: if the metrics server fails, only metrics are lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache, wraps
from typing import ParamSpec

from airflow.configuration import conf

from airflow_asyncaction.airflow_internals.server import metrics as airflow_metrics
from airflow_asyncaction.protocol.actions import Action, State

log = logging.getLogger(__name__)

P = ParamSpec("P")


class MetricKind(StrEnum):
    """Kind of a metric, which determines how its values are aggregated."""

    COUNTER = "counter"  # values are added
    GAUGE = "gauge"  # the last value counts
    TIMER = "timer"  # a duration in milliseconds


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric. Airflow adds ``[metrics] statsd_prefix`` or ``otel_prefix`` to its name.

    :param tags: names of its tags, for servers that support tags. The plain name of a gauge is an untagged
        total
    :param suffix: tag whose values also get a metric each, ``<name>.<value>``, for servers without tags
    """

    name: str
    kind: MetricKind
    description: str
    tags: tuple[str, ...] = ()
    suffix: str | None = None


REPORTS_ACCEPTED = Metric(
    name="asyncaction.reports.accepted",
    kind=MetricKind.COUNTER,
    description="Accepted reports of jobs (200). A report that is resent is counted again.",
)
REPORTS_REFUSED = Metric(
    name="asyncaction.reports.refused",
    kind=MetricKind.COUNTER,
    description="Refused reports of jobs, by the error code of the response, such as bad_signature.",
    tags=("reason",),
    suffix="reason",
)
REPORT_LATENCY = Metric(
    name="asyncaction.report.latency",
    kind=MetricKind.TIMER,
    description="Time that the API server takes to respond to a report, accepted or refused.",
)
ACTIONS_ENDED = Metric(
    name="asyncaction.actions.ended",
    kind=MetricKind.COUNTER,
    description="Actions that ended. Each is counted once, when its end is final: usually when the job"
    " exits (not when it reports), otherwise when it times out, is stopped, is superseded, or is reaped.",
    tags=("state", "type"),
    suffix="state",
)
ACTION_DURATION = Metric(
    name="asyncaction.action.duration",
    kind=MetricKind.TIMER,
    description="Time from the start of the job, or from registration if it never started, to the end of the"
    " action.",
    tags=("state", "type"),
)
ACTIONS_ACTIVE = Metric(
    name="asyncaction.actions.active",
    kind=MetricKind.GAUGE,
    description="Actions that have not ended, by state. Each API server sends the totals every 10 seconds.",
    tags=("state",),
    suffix="state",
)

METRICS = (
    REPORTS_ACCEPTED,
    REPORTS_REFUSED,
    REPORT_LATENCY,
    ACTIONS_ENDED,
    ACTION_DURATION,
    ACTIONS_ACTIVE,
)
"""All metrics, in the order of the documentation."""

_SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")


@cache
def is_enabled() -> bool:
    """Return whether metrics are enabled. The configuration is read once."""
    return any(conf.getboolean("metrics", option, fallback=False) for option in _SWITCHES)


def initialize() -> None:
    """Initialize metrics in a command. Airflow's servers do so at startup."""
    if is_enabled():
        airflow_metrics.initialize()


def _without_raising(emit: Callable[P, None]) -> Callable[P, None]:
    """Decorate a function so that it does nothing if metrics are off, and logs errors instead of raising."""

    @wraps(emit)
    def emit_if_on(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if is_enabled():
                emit(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - an invalid option, or a custom client
            _warn_once(f"{type(error).__name__}: {error}")

    return emit_if_on


@cache  # log once: it may fail for every report
def _warn_once(reason: str) -> None:
    log.warning("Could not send metrics; this is logged once. %s", reason)


@_without_raising
def count_report(refused_with: str | None, latency: timedelta) -> None:
    """Count a report, and record its latency.

    :param refused_with: error code of the response, if it was refused
    """
    if refused_with is None:
        _count(REPORTS_ACCEPTED)
    else:
        _count(REPORTS_REFUSED, reason=refused_with)
    airflow_metrics.record_duration(REPORT_LATENCY.name, latency)


@_without_raising
def count_end(action: Action) -> None:
    """Count an action that has ended, and record its duration."""
    tags = {"state": action.state.value.lower(), "type": airflow_metrics.tag_value(action.type)}
    _count(ACTIONS_ENDED, **tags)
    if action.ended_at is not None:
        since = action.started_at or action.created_at
        airflow_metrics.record_duration(ACTION_DURATION.name, action.ended_at - since, tags)


@_without_raising
def record_active(counts: Mapping[State, int]) -> None:
    """Record the number of actions in each state that is not final."""
    # Each state has a name of its own: a server without tags keeps only the last value of a name.
    airflow_metrics.set_gauge(ACTIONS_ACTIVE.name, sum(counts.values()))
    for state, count in counts.items():
        value = state.value.lower()
        airflow_metrics.set_gauge(f"{ACTIONS_ACTIVE.name}.{value}", count, {"state": value})


def _count(metric: Metric, **tags: str) -> None:
    airflow_metrics.increment(metric.name, tags)
    if metric.suffix is not None:
        airflow_metrics.increment(f"{metric.name}.{tags[metric.suffix]}", tags)
