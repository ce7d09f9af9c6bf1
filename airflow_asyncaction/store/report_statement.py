# SPDX-License-Identifier: Apache-2.0
"""Report statement: writes reports of different actions in one statement, without having locked their rows.

It is PostgreSQL's, for asyncpg. A row is written if it is still as it was read: nobody waits for a lock, and
nothing is overwritten. One round trip and one commit serve all reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import any_, bindparam
from sqlalchemy.dialects.postgresql import ARRAY, asyncpg

from airflow_asyncaction.store import rows
from airflow_asyncaction.store.models import action_table

_TYPES = {
    "state": "text",
    "started_at": "timestamptz",
    "last_report_at": "timestamptz",
    "status_details": "text",
    "results": "text",
    "error_name": "text",
    "error_message": "text",
    "agent": "text",
    "accept_v1": "boolean",
    "log_lines": "integer",
    "log_bytes": "bigint",
    "report_count": "integer",
    "updated_at": "timestamptz",
}
"""Columns of an action that a report may change. A missing value keeps the old one: none becomes NULL."""

_LISTED_TYPES = {"progress": "double precision", "message": "text"}
"""Columns of an action that change with ``status_details``, and may then become NULL."""

_REPORT_TYPES = {
    "report_key": "text",
    "scheme": "text",
    "body_sha256": "text",
    "kind": "text",
    "logs": "text",
    "log_count": "integer",
    "last_line": "integer",
    "log_bytes": "integer",
    "received_at": "timestamptz",
}
"""Columns of a report. The others are NULL."""

CHANGEABLE = frozenset(_TYPES | _LISTED_TYPES)
"""Columns of an action that the statement can change."""


@dataclass(frozen=True)
class ReportRow:
    """A report to write.

    :param read: row of the action as it was read
    :param changes: changed columns of the action, all of them in :data:`CHANGEABLE`
    :param report: columns of the report
    """

    read: Any
    changes: dict[str, Any]
    report: dict[str, Any]


def _input_types() -> dict[str, str]:
    """Return the type of each parameter, in order. Each parameter is an array with a value per report."""
    return {
        "id": "uuid",
        "revision": "integer",
        "read_at": "timestamptz",
        **_TYPES,
        **_LISTED_TYPES,
        **{f"report_{name}": kind for name, kind in _REPORT_TYPES.items()},
    }


def _write_sql() -> str:
    inputs = _input_types()
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(inputs.values(), 1))
    # COALESCE with the old value does not rewrite a large value that PostgreSQL stores out of line.
    kept = [f"{name} = COALESCE(i.{name}, a.{name})" for name in _TYPES]
    listed = [
        f"{name} = CASE WHEN i.status_details IS NULL THEN a.{name} ELSE i.{name} END"
        for name in _LISTED_TYPES
    ]
    values = ", ".join(f"i.report_{name}" for name in _REPORT_TYPES)
    # An API server that has not been upgraded yet increments no revision, but sets updated_at. Locked rows
    # are skipped, so that a long transaction or another server's batch delays no other action.
    return f"""
WITH i AS (SELECT * FROM unnest({arrays}) AS i({", ".join(inputs)})),
unchanged AS MATERIALIZED (
  SELECT a.id FROM async_action a JOIN i ON i.id = a.id
  WHERE a.revision = i.revision AND a.updated_at = i.read_at AND NOT EXISTS (
    SELECT FROM async_action_report r WHERE r.action_id = i.id AND r.report_key = i.report_report_key
  )
  FOR UPDATE OF a SKIP LOCKED
),
written AS (
  UPDATE async_action a SET {", ".join([*kept, *listed])}, revision = a.revision + 1
  FROM i JOIN unchanged USING (id) WHERE a.id = i.id RETURNING a.id
)
INSERT INTO async_action_report (action_id, {", ".join(_REPORT_TYPES)})
SELECT id, {values} FROM i JOIN written USING (id) RETURNING action_id
"""  # noqa: S608 - the names are ours


WRITE = _write_sql()
"""Writes reports. Returns the ids of the actions whose report was written."""

_HAS_ID = action_table.c.id == any_(bindparam("ids", type_=ARRAY(action_table.c.id.type)))
READ = str(rows.SELECT.where(_HAS_ID).compile(dialect=asyncpg.dialect()))  # type: ignore[no-untyped-call]
"""Reads actions. Its parameter is an array of ids."""


def parameters(batch: Sequence[ReportRow]) -> list[list[Any]]:
    """Return the parameters of :data:`WRITE`: an array for each column."""
    return [
        [row.read.id for row in batch],
        [row.read.revision for row in batch],
        [row.read.updated_at for row in batch],
        *([row.changes.get(name) for row in batch] for name in (*_TYPES, *_LISTED_TYPES)),
        *([row.report[name] for row in batch] for name in _REPORT_TYPES),
    ]
