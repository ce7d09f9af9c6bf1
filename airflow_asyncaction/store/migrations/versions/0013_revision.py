# SPDX-License-Identifier: Apache-2.0
"""Add async_action.revision, which each update of an action increments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TABLE = "async_action"
_REVISION = "revision"


def upgrade() -> None:
    """Add the column unless it exists (see 0001)."""
    existing = set() if op.get_context().as_sql else _columns()
    if _REVISION not in existing:
        op.add_column(_TABLE, sa.Column(_REVISION, sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop the column."""
    with op.batch_alter_table(_TABLE) as table:
        table.drop_column(_REVISION)


def _columns() -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(_TABLE)}
