# SPDX-License-Identifier: Apache-2.0
"""What this package counts and times, through Airflow's own metrics: the names, what they mean, their calls.

Nothing here raises: a metrics server that fails takes nothing along.
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


class Kind(StrEnum):
    """What is done with a value."""

    COUNTER = "counter"  # it is added
    GAUGE = "gauge"  # it takes the place of the one before
    TIMER = "timer"  # it is a duration, in milliseconds


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A name in Airflow's metrics; ``[metrics] statsd_prefix`` or ``otel_prefix`` stands before it.

    :param tags: names of its tags, for those who receive tags
    :param suffix: the tag by whose values it is also told one by one, as ``<name>.<value>``, for those who do
        not
    """

    name: str
    kind: Kind
    description: str
    tags: tuple[str, ...] = ()
    suffix: str | None = None


REPORTS_ACCEPTED = Metric(
    name="asyncaction.reports.accepted",
    kind=Kind.COUNTER,
    description="Reports of jobs that were taken (200); one that is sent again is counted again",
)
REPORTS_REFUSED = Metric(
    name="asyncaction.reports.refused",
    kind=Kind.COUNTER,
    description="Reports of jobs that were not taken, by the error code of the answer, such as bad_signature",
    tags=("reason",),
    suffix="reason",
)
REPORT_LATENCY = Metric(
    name="asyncaction.report.latency",
    kind=Kind.TIMER,
    description="From a job's report to its answer, in the API server; refused ones too",
)
ACTIONS_ENDED = Metric(
    name="asyncaction.actions.ended",
    kind=Kind.COUNTER,
    description="Actions that came to their end, each once, when nothing can change it any more: not with the"
    " report, but with the exit of the job; or with a clock, a stop, a newer attempt, or the command reap",
    tags=("state", "type"),
    suffix="state",
)
ACTION_DURATION = Metric(
    name="asyncaction.action.duration",
    kind=Kind.TIMER,
    description="From an action's start (of its job; else of the action) to its end",
    tags=("state", "type"),
)
ACTIONS_UNENDED = Metric(
    name="asyncaction.actions.unended",
    kind=Kind.GAUGE,
    description="Actions that have not ended, by where they stand; each API server tells all of them, every"
    " 10 seconds",
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
"""All of them."""

_OFF_UNLESS = ("statsd_on", "statsd_datadog_enabled", "otel_on")


@cache
def are_on() -> bool:
    """Tell whether anybody receives metrics; as it is configured when this is first asked."""
    return any(conf.getboolean("metrics", option, fallback=False) for option in _OFF_UNLESS)


def initialise() -> None:
    """Begin to send metrics from a command, as Airflow's servers do by themselves."""
    if are_on():
        airflow_metrics.initialise()


def _harmless(emit: Callable[P, None]) -> Callable[P, None]:
    """Let a function do nothing where metrics are off, and no harm where they fail."""

    @wraps(emit)
    def emit_if_on(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if are_on():
                emit(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a wrong option, or a client of the user's own
            _complain(f"{type(error).__name__}: {error}")

    return emit_if_on


@cache  # once is enough: it fails with every report
def _complain(said: str) -> None:
    log.warning("Metrics cannot be sent, which is said once: %s", said)


@_harmless
def count_report(refused_with: str | None, latency: timedelta) -> None:
    """Count a report that was answered.

    :param refused_with: error code of the answer, if it was refused
    """
    if refused_with is None:
        _count(REPORTS_ACCEPTED)
    else:
        _count(REPORTS_REFUSED, reason=refused_with)
    airflow_metrics.record_duration(REPORT_LATENCY.name, latency)


@_harmless
def count_end(action: Action) -> None:
    """Count an action that has ended, and tell how long it took."""
    tags = {"state": action.state.value.lower(), "type": _tag_value(action.type)}
    _count(ACTIONS_ENDED, **tags)
    if action.ended_at is not None:
        since = action.started_at or action.created_at
        airflow_metrics.record_duration(ACTION_DURATION.name, action.ended_at - since, tags)


@_harmless
def tell_unended(counts: Mapping[State, int]) -> None:
    """Tell how many actions are in each state that is not an end."""
    # Without tags: where tags are not sent, each state's number would take the place of the one before.
    airflow_metrics.set_gauge(ACTIONS_UNENDED.name, sum(counts.values()))
    for state, count in counts.items():
        value = state.value.lower()
        airflow_metrics.set_gauge(f"{ACTIONS_UNENDED.name}.{value}", count, {"state": value})


def _count(metric: Metric, **tags: str) -> None:
    airflow_metrics.increment(metric.name, tags)
    if metric.suffix is not None:
        airflow_metrics.increment(f"{metric.name}.{tags[metric.suffix]}", tags)


def _tag_value(text: str) -> str:
    """Return a text without what would end a tag."""
    return airflow_metrics.tag_value(text)
