# SPDX-License-Identifier: Apache-2.0
"""Audit log: rows of Airflow's own event log, as its routes write them for what a user does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from airflow_asyncaction.airflow_internals.server import audit_log
from airflow_asyncaction.protocol.reports import well_formed

STOP = "stop_async_action"
TRIGGER = "trigger_dag_run"
"""As Airflow's own route names it."""


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """Something that a user did.

    :param owner: name of the user
    :param try_number: of the task instance; ``None``, as the rest of it: of a whole Dag run
    :param extra: what else is worth knowing
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
    """Write an event's row, in the transaction of what it tells of."""
    audit_log.insert_event(
        connection,
        event=event.event,
        owner=well_formed(event.owner),
        at=now,
        dag_id=event.dag_id,
        run_id=event.run_id,
        task_id=event.task_id,
        map_index=event.map_index,
        try_number=event.try_number,
        extra=event.extra,
    )
