# SPDX-License-Identifier: Apache-2.0
"""Metrics: names, descriptions and functions to emit them through Airflow's metrics.

No function raises: a failing metrics server must not affect actions.
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
from airflow.observability import stats

from airflow_asyncaction.protocol.actions import Action, State

log = logging.getLogger(__name__)

P = ParamSpec("P")


class MetricKind(StrEnum):
    """How values of a metric are combined."""

    COUNTER = "counter"  # added up
    GAUGE = "gauge"  # replaces the previous value
    TIMER = "timer"  # a duration, in milliseconds


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric. Airflow puts ``[metrics] statsd_prefix`` or ``otel_prefix`` before its name.

    :param tags: names of its tags, for backends with tags
    :param suffix: the tag whose values are also emitted as ``<name>.<value>``, for backends without tags
    """

    name: str
    kind: MetricKind
    description: str
    tags: tuple[str, ...] = ()
    suffix: str | None = None


REPORTS_ACCEPTED = Metric(
    name="asyncaction.reports.accepted",
    kind=MetricKind.COUNTER,
    description="Reports of jobs that were accepted (200). Resent reports count again",
)
REPORTS_REFUSED = Metric(
    name="asyncaction.reports.refused",
    kind=MetricKind.COUNTER,
    description="Reports of jobs that were refused, by the error code of the response, such as bad_signature",
    tags=("reason",),
    suffix="reason",
)
REPORT_LATENCY = Metric(
    name="asyncaction.report.latency",
    kind=MetricKind.TIMER,
    description="Time the API server takes to respond to a report, refused reports included",
)
ACTIONS_ENDED = Metric(
    name="asyncaction.actions.ended",
    kind=MetricKind.COUNTER,
    description="Actions that ended. Each is counted once, when it can no longer change: at the exit of its"
    " job, not at the report, or by a timeout, a stop, a newer attempt or the command reap",
    tags=("state", "type"),
    suffix="state",
)
ACTION_DURATION = Metric(
    name="asyncaction.action.duration",
    kind=MetricKind.TIMER,
    description="Time from the start of the job, or else creation of the action, to the end of the action",
    tags=("state", "type"),
)
ACTIONS_UNENDED = Metric(
    name="asyncaction.actions.unended",
    kind=MetricKind.GAUGE,
    description="Actions that have not ended, by state. Each API server reports all of them every 10 seconds",
    tags=("state",),
    suffix="state",
)

METRICS = (
    REPORTS_ACCEPTED,
    REPORTS_REFUSED,
    REPORT_LATENCY,
    ACTIONS_ENDED,
    ACTION_DURATION,
    ACTIONS_UNENDED,
)
"""All metrics."""

_OFF_UNLESS = ("statsd_on", "statsd_datadog_enabled", "otel_on")


@cache
def is_enabled() -> bool:
    """Return whether metrics are enabled. The configuration is read once."""
    return any(conf.getboolean("metrics", option, fallback=False) for option in _OFF_UNLESS)


def initialise() -> None:
    """Initialize metrics in a command; Airflow's servers do so themselves."""
    from airflow.observability.metrics import stats_utils

    if is_enabled():
        stats.initialize(
            factory=stats_utils.get_stats_factory(),
            export_legacy_names=conf.getboolean("metrics", "legacy_names_on", fallback=True),
        )


def _harmless(emit: Callable[P, None]) -> Callable[P, None]:
    """Skip a function if metrics are off, and log its errors instead of raising them."""

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


@_harmless
def count_report(refused_with: str | None, latency: timedelta) -> None:
    """Count a report, and record the time taken to respond.

    :param refused_with: error code of the response if the report was refused
    """
    if refused_with is None:
        _count(REPORTS_ACCEPTED)
    else:
        _count(REPORTS_REFUSED, reason=refused_with)
    stats.timing(REPORT_LATENCY.name, latency)


@_harmless
def count_end(action: Action) -> None:
    """Count an action that has ended, and record its duration."""
    tags = {"state": action.state.value.lower(), "type": _tag_value(action.type)}
    _count(ACTIONS_ENDED, **tags)
    if action.ended_at is not None:
        since = action.started_at or action.created_at
        stats.timing(ACTION_DURATION.name, action.ended_at - since, tags=tags)


@_harmless
def record_unended(counts: Mapping[State, int]) -> None:
    """Record the number of actions in each state that is not final."""
    # Without tags: in backends without tags, the states would overwrite each other.
    stats.gauge(ACTIONS_UNENDED.name, sum(counts.values()))
    for state, count in counts.items():
        value = state.value.lower()
        stats.gauge(f"{ACTIONS_UNENDED.name}.{value}", count, tags={"state": value})


def _count(metric: Metric, **tags: str) -> None:
    stats.incr(metric.name, tags=tags)
    if metric.suffix is not None:
        stats.incr(f"{metric.name}.{tags[metric.suffix]}", tags=tags)


def _tag_value(text: str) -> str:
    """Return a text without characters that are invalid in tags."""
    return stats.normalize_name_for_stats(text, log_warning=False)
