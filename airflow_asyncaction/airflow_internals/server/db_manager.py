# SPDX-License-Identifier: Apache-2.0
"""DB manager: makes ``airflow db migrate`` and ``airflow db clean`` manage tables of a provider.

Uses: ``airflow.utils.db_manager.BaseDBManager``, ``airflow.utils.db_cleanup`` (``_TableConfig``,
``config_dict``).

Checked with Airflow 3.3.2.

Airflow finds a manager by the provider's ``db-managers``. ``airflow db clean`` has no public interface:
:func:`register_with_db_clean` extends Airflow's own ``config_dict`` before the command reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow.utils.db_manager import BaseDBManager

__all__ = ["BaseDBManager", "CleanedTable", "register_with_db_clean"]


@dataclass(frozen=True, kw_only=True)
class CleanedTable:
    """A table whose old rows ``airflow db clean`` deletes.

    :param recency_column: time that determines the age of a row
    :param dag_id_column: column for ``--dag-ids``; ``None`` if that option does not select rows of this table
    :param owner: column of this table, and the table and column that it refers to. A row is kept while its
        owner exists
    """

    name: str
    recency_column: str
    dag_id_column: str | None = None
    owner: tuple[str, str, str] | None = None


def register_with_db_clean(tables: Sequence[CleanedTable]) -> None:
    """Register tables with ``airflow db clean``.

    Airflow cleans dependent tables first. The owner is declared as dependent on the owned table, so that
    the rows of both are deleted in one run, unless ``--tables`` names the owner alone.
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
