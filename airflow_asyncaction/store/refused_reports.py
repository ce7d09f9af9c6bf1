# SPDX-License-Identifier: Apache-2.0
"""Refused reports: stored with a truncated body, up to a limit per action."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row

from airflow_asyncaction.protocol.decisions import Refused
from airflow_asyncaction.protocol.signing import Scheme
from airflow_asyncaction.store import reports, rows
from airflow_asyncaction.store.proof import credentials_of
from airflow_asyncaction.store.reports import Envelope

KEPT_REFUSALS = 100
"""Maximum number of refusals stored per action, so that a faulty job cannot fill the table."""
KEPT_BODY_BYTES = 4096
"""Maximum size of the stored body of a refused report."""
# They keep their key, so that a resent report gets the same refusal, and is not stored again.
_REPLAYED = ("already_ended", "superseded")


def add_refusal(
    connection: Connection, row: Row[Any], refused: Refused, envelope: Envelope, now: datetime
) -> None:
    """Store a refused report, with its body masked and truncated.

    :param row: locked row of the action
    """
    if refused.repeated or row.refused_count >= KEPT_REFUSALS:
        lock_out_v1(connection, row, envelope.scheme)
        return
    columns = reports.columns(row.id, envelope, now, refused_with=refused.code)
    if refused.code not in _REPLAYED:
        columns["report_key"] = None
    credentials = credentials_of(row)
    body = credentials.masked(envelope.body).decode("utf-8", "replace")
    kept = credentials.masker.text(body).encode()[:KEPT_BODY_BYTES].decode("utf-8", "replace")
    columns["body"] = kept.replace("\0", "�")
    rows.insert_report(connection, columns)
    changes = {**without_v1(row, envelope.scheme), "refused_count": row.refused_count + 1}
    rows.write(connection, row.id, {**changes, "updated_at": now})


def lock_out_v1(connection: Connection, row: Row[Any], job_scheme: Scheme | None) -> None:
    """Refuse v1 from now on if a job's request was signed with v2."""
    changes = without_v1(row, job_scheme)
    if changes:
        rows.write(connection, row.id, changes)


def without_v1(row: Row[Any], job_scheme: Scheme | None) -> dict[str, Any]:
    """Return the columns to change after a job's request: once a job has used v2, v1 is refused."""
    return {"accept_v1": False} if job_scheme is Scheme.V2 and row.accept_v1 else {}
