# SPDX-License-Identifier: Apache-2.0
"""Audit log: writes rows of Airflow's event log, as Airflow's own routes do for user actions.

Uses: ``airflow.models.log.Log``.

Checked with Airflow 3.3.2.

User names are truncated to the 500 characters of the column.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import cast

from airflow.models.log import Log
from sqlalchemy import Connection, Table, insert

_INSERT = insert(cast("Table", Log.__table__))
_MAX_OWNER_CHARS = 500


def insert_event(
    connection: Connection,
    *,
    event: str,
    owner: str,
    at: datetime,
    dag_id: str,
    run_id: str,
    task_id: str | None,
    map_index: int | None,
    try_number: int | None,
    extra: Mapping[str, str],
) -> None:
    """Insert one event.

    :param owner: user name
    :param try_number: try of the task instance. It is ``None``, like ``task_id`` and ``map_index``, for an
        event of a whole Dag run
    :param extra: further details, stored as a JSON object
    """
    owner = owner[:_MAX_OWNER_CHARS]
    values = {
        "dttm": at,
        "event": event,
        "owner": owner,
        "owner_display_name": owner,
        "dag_id": dag_id,
        "run_id": run_id,
        "task_id": task_id,
        "map_index": map_index,
        "try_number": try_number,
        "extra": json.dumps(dict(extra)),
    }
    connection.execute(_INSERT, values)
