# SPDX-License-Identifier: Apache-2.0
"""DB manager: lets ``airflow db migrate`` and ``airflow db clean`` manage tables that are not Airflow's.

Uses: ``airflow.utils.db_manager.BaseDBManager``, ``airflow.utils.db_cleanup`` (``_TableConfig``,
``config_dict``).

Checked with Airflow 3.3.2.

Airflow finds a manager by the provider's ``db-managers``. For ``airflow db clean`` there is no public way:
:func:`register_with_db_clean` extends Airflow's own table of tables. It must run before the command reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow.utils.db_manager import BaseDBManager

__all__ = ["BaseDBManager", "CleanedTable", "register_with_db_clean"]


@dataclass(frozen=True, kw_only=True)
class CleanedTable:
    """A table that ``airflow db clean`` trims.

    :param recency_column: time by which a row is old
    :param dag_id_column: ``None``: ``--dag-ids`` does not select its rows
    :param owner: own column, and table and column that it refers to: a row stays as long as that row exists
    """

    name: str
    recency_column: str
    dag_id_column: str | None = None
    owner: tuple[str, str, str] | None = None


def register_with_db_clean(tables: Sequence[CleanedTable]) -> None:
    """Add tables to those that ``airflow db clean`` knows.

    Airflow cleans dependent tables first. It is told that a table with an owner depends on it: its rows go in
    the same run as the owner's, unless ``--tables`` names the owner alone.
    """
    from airflow.utils import db_cleanup

    for table in tables:
        config = db_cleanup._TableConfig(
            table_name=table.name,
            recency_column_name=table.recency_column,
            dag_id_column_name=table.dag_id_column,
            **_ownership(table),
        )
        db_cleanup.config_dict.setdefault(table.name, config)


def _ownership(table: CleanedTable) -> dict[str, Any]:
    if table.owner is None:
        return {}
    column, owner, owner_column = table.owner
    return {
        "extra_columns": [column],
        "referenced_pk_column": column,
        "skip_if_referenced": [(owner, owner_column)],
        "dependent_tables": [owner],
    }
