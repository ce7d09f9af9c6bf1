# SPDX-License-Identifier: Apache-2.0
"""State counts: counts the actions in each state that is not final."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.models import action_table

_ACTIVE = tuple(state for state in State if not state.is_end)
_column = action_table.c.state
# An index-only scan of (state, id): its cost does not grow with ended actions.
_COUNT = (
    select(_column, func.count()).where(_column.in_([state.value for state in _ACTIVE])).group_by(_column)
)


def count_active(database: Database) -> Mapping[State, int]:
    """Return the number of actions in each state that is not final.

    :raises StoreUnavailable: the database does not answer
    """
    with database.transaction() as connection:
        found = {State(state): count for state, count in connection.execute(_COUNT)}
    return {state: found.get(state, 0) for state in _ACTIVE}
