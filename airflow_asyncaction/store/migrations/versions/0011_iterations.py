# SPDX-License-Identifier: Apache-2.0
"""Add async_action.iteration, the iteration of the loop task group that the task is in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TABLE = "async_action"
_ITERATION = "iteration"


def upgrade() -> None:
    """Add the column unless it exists (see 0001). Earlier actions are outside loops."""
    existing = set() if op.get_context().as_sql else _columns()
    if _ITERATION not in existing:
        op.add_column(_TABLE, sa.Column(_ITERATION, sa.Integer(), nullable=False, server_default="-1"))


def downgrade() -> None:
    """Drop the column. Actions of a task in a loop then count as actions of one task."""
    with op.batch_alter_table(_TABLE) as table:
        table.drop_column(_ITERATION)


def _columns() -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(_TABLE)}
