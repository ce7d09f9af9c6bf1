# SPDX-License-Identifier: Apache-2.0
"""Alembic environment: runs the migrations in Airflow's database, and ignores tables that are not ours."""

from __future__ import annotations

import contextlib
from typing import Any

from alembic import context

from airflow_asyncaction.airflow_internals.server import database
from airflow_asyncaction.store.db_manager import AsyncActionDBManager

metadata = AsyncActionDBManager.metadata


def include_object(_: Any, name: str | None, type_: str, *_args: Any) -> bool:
    """Ignore tables that are not ours."""
    return type_ != "table" or name in metadata.tables


common: dict[str, Any] = {
    "target_metadata": metadata,
    "compare_type": True,
    "compare_server_default": True,
    "render_as_batch": True,
    "include_object": include_object,
    "version_table": AsyncActionDBManager.version_table_name,
}

if context.is_offline_mode():
    context.configure(url=database.url(), literal_binds=True, **common)
    with context.begin_transaction():
        context.run_migrations()
else:
    with contextlib.ExitStack() as stack:
        connection = context.config.attributes.get("connection")
        if connection is None:
            connection = stack.enter_context(database.engine().connect())
        context.configure(connection=connection, transaction_per_migration=True, **common)
        with context.begin_transaction():
            context.run_migrations()
