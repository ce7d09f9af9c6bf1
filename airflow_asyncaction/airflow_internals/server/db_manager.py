# SPDX-License-Identifier: Apache-2.0
"""DB manager: makes ``airflow db migrate`` and ``airflow db clean`` manage tables of a provider.

Uses: ``airflow.utils.db_manager.BaseDBManager``, ``airflow.utils.db_cleanup`` (``_TableConfig``,
``_BASE_TABLE_ALIAS``, ``config_dict``).

Checked with Airflow 3.3.2.

Airflow finds a manager by the provider's ``db-managers``. ``airflow db clean`` has no public interface:
:func:`register_with_db_clean` extends Airflow's own ``config_dict`` before the command reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow.utils.db_manager import BaseDBManager
from sqlalchemy import ColumnElement, and_, column, exists, literal_column, not_, table

from airflow_asyncaction.airflow_internals.server.database import UtcDateTime

__all__ = ["BaseDBManager", "CleanedTable", "CleanupPreview", "register_with_db_clean"]


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
    owner: tuple[str, CleanedTable, str] | None = None


@dataclass(frozen=True)
class CleanupPreview:
    """Options of ``airflow db clean --dry-run``, which does not tell them to tables.

    :param before: time before which rows are old
    :param dag_ids: only rows of these Dags; ``None`` for all
    :param excluded_dag_ids: no rows of these Dags
    """

    before: datetime
    dag_ids: Sequence[str] | None
    excluded_dag_ids: Sequence[str] | None

    def would_delete(self, cleaned: CleanedTable, columns: Any) -> ColumnElement[bool]:
        """Return the condition of the rows that the cleanup would delete."""
        conditions = [columns[cleaned.recency_column] < self.before]
        if cleaned.dag_id_column is not None:
            dag_id = columns[cleaned.dag_id_column]
            conditions += [dag_id.in_(self.dag_ids)] if self.dag_ids else []
            conditions += [dag_id.not_in(self.excluded_dag_ids)] if self.excluded_dag_ids else []
        return and_(*conditions)


def register_with_db_clean(tables: Sequence[CleanedTable], preview: CleanupPreview | None = None) -> None:
    """Register tables with ``airflow db clean``.

    Airflow cleans dependent tables first. The owner is declared as dependent on the owned table, so that
    the rows of both are deleted in one run, unless ``--tables`` names the owner alone.

    :param preview: the options of a dry run. It deletes no owners, so it counts the rows whose owners the
        cleanup would delete
    """
    from airflow.utils import db_cleanup

    for cleaned in tables:
        config = db_cleanup._TableConfig(
            table_name=cleaned.name,
            recency_column_name=cleaned.recency_column,
            dag_id_column_name=cleaned.dag_id_column,
            **_ownership(cleaned, preview),
        )
        db_cleanup.config_dict.setdefault(cleaned.name, config)


def _ownership(cleaned: CleanedTable, preview: CleanupPreview | None) -> dict[str, Any]:
    if cleaned.owner is None:
        return {}
    reference, owner, owner_column = cleaned.owner
    config: dict[str, Any] = {"extra_columns": [reference], "dependent_tables": [owner.name]}
    if preview is not None:
        return {**config, "extra_filters": [not_(_is_kept(owner, owner_column, reference, preview))]}
    return {
        **config,
        "referenced_pk_column": reference,
        "skip_if_referenced": [(owner.name, owner_column)],
    }


def _is_kept(
    owner: CleanedTable, owner_column: str, reference: str, preview: CleanupPreview
) -> ColumnElement[bool]:
    """Return the condition of the rows whose owner exists after the cleanup."""
    from airflow.utils.db_cleanup import _BASE_TABLE_ALIAS

    columns = [column(owner_column), column(owner.recency_column, UtcDateTime)]
    if owner.dag_id_column is not None:
        columns.append(column(owner.dag_id_column))
    owners = table(owner.name, *columns)
    is_owner = owners.c[owner_column] == literal_column(f"{_BASE_TABLE_ALIAS}.{reference}")
    return exists().where(is_owner, not_(preview.would_delete(owner, owners.c)))
