# SPDX-License-Identifier: Apache-2.0
"""Lets ``airflow db migrate`` create and upgrade the tables, and ``airflow db clean`` know them."""

from __future__ import annotations

from pathlib import Path

from airflow.utils.db_manager import BaseDBManager

from airflow_asyncaction.store.models import metadata

_HERE = Path(__file__).parent

REVISION_HEADS = {"0.1.0": "0010"}
"""The migration that each release of this package ends with."""


class AsyncActionDBManager(BaseDBManager):
    """Airflow finds it by the provider's ``db-managers``."""

    metadata = metadata
    version_table_name = "alembic_version_asyncaction"
    migration_dir = str(_HERE / "migrations")
    alembic_file = str(_HERE / "alembic.ini")
    supports_table_dropping = True
    revision_heads_map = REVISION_HEADS

    def downgrade(
        self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False
    ) -> None:
        """Take migrations back, down to ``to_revision`` (``base``: all)."""
        from alembic import command

        if from_revision and show_sql_only:
            to_revision = f"{from_revision}:{to_revision}"
        command.downgrade(self.get_alembic_config(), revision=to_revision, sql=show_sql_only)


def register_with_db_clean() -> None:
    """Add the tables to those that ``airflow db clean`` knows.

    Airflow 3.3 has no public way: its table of tables is extended. It cleans dependent tables first, and is
    told that actions depend on reports: reports go when their action has gone, in the same run, unless
    ``--tables`` names ``async_action`` alone.
    """
    from airflow.utils import db_cleanup

    tables = (
        db_cleanup._TableConfig(
            table_name="async_action",
            recency_column_name="updated_at",
            dag_id_column_name="dag_id",
        ),
        db_cleanup._TableConfig(
            table_name="async_action_report",
            recency_column_name="received_at",
            extra_columns=["action_id"],
            referenced_pk_column="action_id",
            skip_if_referenced=[("async_action", "id")],
            dependent_tables=["async_action"],
        ),
    )
    for table in tables:
        db_cleanup.config_dict.setdefault(table.table_name, table)
