# SPDX-License-Identifier: Apache-2.0
"""DB manager: hooks the tables into ``airflow db migrate`` and ``airflow db clean``."""

from __future__ import annotations

from pathlib import Path

from airflow.utils.db_manager import BaseDBManager

from airflow_asyncaction.store.models import metadata

_HERE = Path(__file__).parent

REVISION_HEADS = {"0.1.0": "0010"}
"""Latest migration of each release."""


class AsyncActionDBManager(BaseDBManager):
    """Creates, upgrades and downgrades the tables. Airflow finds it in the provider's ``db-managers``."""

    metadata = metadata
    version_table_name = "alembic_version_asyncaction"
    migration_dir = str(_HERE / "migrations")
    alembic_file = str(_HERE / "alembic.ini")
    supports_table_dropping = True
    revision_heads_map = REVISION_HEADS

    def downgrade(
        self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False
    ) -> None:
        """Downgrade the tables to ``to_revision``; ``base`` drops them."""
        from alembic import command

        if from_revision and show_sql_only:
            to_revision = f"{from_revision}:{to_revision}"
        command.downgrade(self.get_alembic_config(), revision=to_revision, sql=show_sql_only)


def register_with_db_clean() -> None:
    """Register the tables with ``airflow db clean``.

    Airflow 3.3 has no public API for this, so its table configuration is extended. Airflow cleans dependent
    tables first. ``async_action`` is declared dependent on ``async_action_report``, so that one run deletes
    actions and then their reports, unless ``--tables`` names ``async_action`` alone.
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
