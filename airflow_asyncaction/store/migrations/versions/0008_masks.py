# SPDX-License-Identifier: Apache-2.0
"""Add async_action.masks and .sealed_arguments: secrets and unmasked arguments, Fernet-encrypted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TABLE = "async_action"
_COLUMNS = ("masks", "sealed_arguments")


def upgrade() -> None:
    """Add the columns unless they exist (see 0001)."""
    existing = set() if op.get_context().as_sql else _columns()
    for name in _COLUMNS:
        if name not in existing:
            op.add_column(_TABLE, sa.Column(name, sa.Text().with_variant(LONGTEXT, "mysql")))


def downgrade() -> None:
    """Drop the columns. Running jobs get masked arguments, and their reports are not masked."""
    with op.batch_alter_table(_TABLE) as table:
        for name in _COLUMNS:
            table.drop_column(name)


def _columns() -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(_TABLE)}
