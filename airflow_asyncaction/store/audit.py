# SPDX-License-Identifier: Apache-2.0
"""Audit log: writes user actions to Airflow's event log, in the form that Airflow's routes use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from airflow_asyncaction.airflow_internals.server import audit_log
from airflow_asyncaction.protocol.reports import replace_unstorable

STOP = "stop_async_action"
TRIGGER = "trigger_dag_run"
"""The event name of Airflow's own route."""


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """User action to record in the audit log.

    :param owner: user name
    :param try_number: try of the task instance. It is ``None``, like ``task_id`` and ``map_index``, for an
        event of a whole Dag run
    :param extra: further details, stored as JSON
    """

    event: str
    owner: str
    dag_id: str
    run_id: str
    task_id: str | None = None
    map_index: int | None = None
    try_number: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


def record(connection: Connection, event: AuditEvent, now: datetime) -> None:
    """Write an event in the transaction of the change that it records."""
    audit_log.insert_event(
        connection,
        event=event.event,
        owner=replace_unstorable(event.owner),
        at=now,
        dag_id=event.dag_id,
        run_id=event.run_id,
        task_id=event.task_id,
        map_index=event.map_index,
        try_number=event.try_number,
        extra=event.extra,
    )
