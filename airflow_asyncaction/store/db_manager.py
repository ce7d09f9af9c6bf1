# SPDX-License-Identifier: Apache-2.0
"""DB manager: registers the tables with ``airflow db migrate`` and ``airflow db clean``."""

from __future__ import annotations

from pathlib import Path

from airflow_asyncaction.airflow_internals.server import db_manager
from airflow_asyncaction.airflow_internals.server.db_manager import (
    BaseDBManager,
    CleanedTable,
    CleanupPreview,
)
from airflow_asyncaction.store.models import metadata

_HERE = Path(__file__).parent

REVISION_HEADS = {"0.1.0": "0013"}
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


def register_with_db_clean(preview: CleanupPreview | None = None) -> None:
    """Register actions and reports with ``airflow db clean``: reports go only with their action.

    :param preview: the options of a dry run
    """
    actions = CleanedTable(name="async_action", recency_column="updated_at", dag_id_column="dag_id")
    reports = CleanedTable(
        name="async_action_report", recency_column="received_at", owner=("action_id", actions, "id")
    )
    db_manager.register_with_db_clean([actions, reports], preview)
