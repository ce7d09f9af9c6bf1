# SPDX-License-Identifier: Apache-2.0
"""Versions of actions: tell whether actions changed, for many actions with one query."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam

from airflow_asyncaction.protocol.actions import find_expired_timeout
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store import rows
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.store.proof import Credentials
from airflow_asyncaction.store.secret import secrets_of

# These columns may be large, and neither authenticate a task nor start a timeout.
_NOT_READ = {
    "arguments",
    "results",
    "status_details",
    "error_message",
    "agent",
    "job",
    "exit",
    "masks",
    "sealed_arguments",
}
_SELECT = rows.select_without(_NOT_READ).where(action_table.c.id.in_(bindparam("action_ids", expanding=True)))


@dataclass(frozen=True)
class ActionVersion:
    """The version of an action, and what is needed to decide whether its task must know.

    :param row: its row without large columns
    """

    value: str
    row: Row[Any]

    @property
    def credentials(self) -> Credentials:
        """Credentials that authenticate requests about the action, without its masks.

        :raises SecretUnreadable: its secrets were encrypted with a key that is not configured
        """
        return Credentials(secrets_of(self.row), self.row.accept_v1)

    def has_expired_timeout(self, now: datetime) -> bool:
        """Return whether a timeout of the action expired and has not ended it yet."""
        if self.row.start_timeout_seconds is None and self.row.heartbeat_timeout_seconds is None:
            return False
        return find_expired_timeout(rows.to_action(self.row), now) is not None


def version_of(row: Row[Any]) -> str:
    """Return the version of an action: text that is safe in a URL and changes with its row."""
    return str(row.revision)


def read_versions(database: Database, action_ids: Collection[JobId]) -> Mapping[JobId, ActionVersion]:
    """Return the current versions of actions with one query. Actions that do not exist are left out.

    :raises StoreUnavailable: the database does not answer
    """
    with database.transaction() as connection:
        found = connection.execute(_SELECT, {"action_ids": list(action_ids)}).all()
    return {row.id: ActionVersion(version_of(row), row) for row in found}
