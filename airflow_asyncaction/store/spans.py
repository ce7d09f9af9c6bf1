# SPDX-License-Identifier: Apache-2.0
"""Spans: emits the span of an ended action, as a child of its task's span, with its reports as events.

The tracer is Airflow's, configured by ``[traces] otel_on`` and the ``OTEL_`` variables. Errors are logged,
not raised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from airflow.configuration import conf
from sqlalchemy import Connection, bindparam, select

from airflow_asyncaction.protocol.actions import Action, State
from airflow_asyncaction.store.models import action_table, report_table

log = logging.getLogger(__name__)

MAX_EVENTS = 100
"""Maximum number of events in a span: the last reports."""
_TRACER = "airflow_asyncaction"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_columns = action_table.c
_ROW = select(
    _columns.dag_id,
    _columns.run_id,
    _columns.task_id,
    _columns.map_index,
    _columns.iteration,
    _columns.runner,
    _columns.report_count,
    _columns.refused_count,
    _columns.traceparent,
).where(_columns.id == bindparam("action_id"))
_reports = report_table.c
_REPORTS = (
    select(_reports.kind, _reports.received_at, _reports.refused_with, _reports.scheme, _reports.log_count)
    .where(_reports.action_id == bindparam("action_id"))
    .order_by(_reports.id.desc())
    .limit(MAX_EVENTS)
)


@cache
def is_enabled() -> bool:
    """Return whether traces are enabled. The configuration is read once."""
    return conf.getboolean("traces", "otel_on", fallback=False)


def emit(action: Action, transaction: Callable[[], AbstractContextManager[Connection]]) -> None:
    """Emit the span of an action that has ended, if traces are enabled and the span of its task is sampled.

    :param transaction: begins a transaction, to read the action and its reports
    """
    if not is_enabled():
        return
    try:
        _emit(action, transaction)
    except Exception:  # from the database, or a custom span processor
        log.warning("Could not emit the span of action %s", action.id, exc_info=True)


def _emit(action: Action, transaction: Callable[[], AbstractContextManager[Connection]]) -> None:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    with transaction() as connection:
        row = connection.execute(_ROW, {"action_id": action.id}).one_or_none()
        reports = connection.execute(_REPORTS, {"action_id": action.id}).all()
    if row is None:
        return
    carrier = {"traceparent": row.traceparent or ""}
    # Not a child of the span of the request that ended the action.
    parent = TraceContextTextMapPropagator().extract(carrier, context=Context())
    span = trace.get_tracer(_TRACER).start_span(
        f"async_action {action.type}",
        context=parent,
        kind=trace.SpanKind.CONSUMER,  # requested by the task, run elsewhere
        attributes=_attributes(action, row),
        start_time=_ns(action.started_at or action.created_at),
    )
    for name, attributes, at in _events(reports):
        span.add_event(name, attributes, at)
    if action.state in (State.ERROR, State.TIMEOUT):
        span.set_status(trace.StatusCode.ERROR, action.error_name)
    elif action.state is State.SUCCESS:
        span.set_status(trace.StatusCode.OK)
    span.end(_ns(action.ended_at or datetime.now(UTC)))


def _attributes(action: Action, row: Any) -> dict[str, str | int]:
    """Return the attributes of the span. Those that Airflow's own spans have, too, have the same names."""
    attributes = {
        "airflow.dag_id": row.dag_id,
        "airflow.dag_run.run_id": row.run_id,
        "airflow.task_id": row.task_id,
        "airflow.task_instance.map_index": row.map_index,
        "asyncaction.id": action.id,
        "asyncaction.type": action.type,
        "asyncaction.attempt": action.attempt,
        "asyncaction.runner": row.runner,
        "asyncaction.state": action.state.value,
        "asyncaction.reports": row.report_count,
        "asyncaction.reports_refused": row.refused_count,
    }
    if row.iteration >= 0:
        attributes["asyncaction.iteration"] = row.iteration
    if action.error_name is not None:
        attributes["asyncaction.error_name"] = action.error_name
    return attributes


def _events(reports: Sequence[Any]) -> Sequence[tuple[str, dict[str, str | int], int]]:
    """Return the reports as events, in order: name, attributes and time."""
    events = []
    for report in reversed(reports):
        attributes: dict[str, str | int] = {"scheme": report.scheme, "log_lines": report.log_count}
        if report.refused_with is not None:
            attributes["refused_with"] = report.refused_with
        events.append((report.kind, attributes, _ns(report.received_at)))
    return events


def _ns(time: datetime) -> int:
    """Return a time as Unix time in ns."""
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000
