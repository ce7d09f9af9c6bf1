# SPDX-License-Identifier: Apache-2.0
"""Add columns for launched actions and the trace context, and indexes for lists."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from airflow_asyncaction.airflow_internals.server.migration_types import TIMESTAMP

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLE = "async_action"
_INDEXES = {
    "ix_async_action_idempotency": ["idempotency"],
    "ix_async_action_dag_id_state_id": ["dag_id", "state", "id"],
    "ix_async_action_type_state_id": ["type", "state", "id"],
    "ix_async_action_state_id": ["state", "id"],
}


def upgrade() -> None:
    """Add the columns and indexes unless they exist (see 0001)."""
    is_offline = op.get_context().as_sql
    inspector = None if is_offline else sa.inspect(op.get_bind())
    existing = {column["name"] for column in inspector.get_columns(_TABLE)} if inspector else set()
    indexes = {index["name"] for index in inspector.get_indexes(_TABLE)} if inspector else set()
    for column in _columns():
        if column.name not in existing:
            op.add_column(_TABLE, column)
    for name, columns in _INDEXES.items():
        if name not in indexes:
            op.create_index(name, _TABLE, columns, unique=columns == ["idempotency"])


def downgrade() -> None:
    """Drop the columns and indexes. Queued actions are then never launched."""
    for name in _INDEXES:
        op.drop_index(name, _TABLE)
    with op.batch_alter_table(_TABLE) as table:
        for column in reversed(_columns()):
            table.drop_column(column.name)


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("requested_by", sa.String(250)),
        sa.Column("requested_at", TIMESTAMP),
        sa.Column("scheduled_at", TIMESTAMP),
        sa.Column("idempotency", sa.String(64)),
        sa.Column("request", sa.String(64)),
        sa.Column("traceparent", sa.String(55)),
    ]
