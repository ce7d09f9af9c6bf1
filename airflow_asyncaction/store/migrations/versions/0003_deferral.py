# SPDX-License-Identifier: Apache-2.0
"""Add async_action.adoptable and async_action.deferral."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns unless they exist (see 0001)."""
    existing = set() if op.get_context().as_sql else _columns()
    if "adoptable" not in existing:
        op.add_column("async_action", sa.Column("adoptable", sa.Boolean(create_constraint=False)))
    if "deferral" not in existing:
        op.add_column("async_action", sa.Column("deferral", sa.Text()))


def downgrade() -> None:
    """Drop the columns. The server no longer completes tasks that are deferred now."""
    with op.batch_alter_table("async_action") as table:
        table.drop_column("deferral")
        table.drop_column("adoptable")


def _columns() -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns("async_action")}
