# SPDX-License-Identifier: Apache-2.0
"""Add the method that a webda job calls, and the orchestrator that a job receives."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLE = "async_action"


def upgrade() -> None:
    """Add the columns unless they exist (see 0001)."""
    existing = set() if op.get_context().as_sql else _existing()
    for column in _columns():
        if column.name not in existing:
            op.add_column(_TABLE, column)


def downgrade() -> None:
    """Drop the columns. Webda jobs that request their method afterwards get none, and fail."""
    with op.batch_alter_table(_TABLE) as table:
        for column in reversed(_columns()):
            table.drop_column(column.name)


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("service_name", sa.String(250)),
        sa.Column("method", sa.String(250)),
        sa.Column("orchestrator", sa.String(250)),
    ]


def _existing() -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(_TABLE)}
