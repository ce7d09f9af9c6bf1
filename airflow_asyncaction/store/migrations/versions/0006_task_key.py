# SPDX-License-Identifier: Apache-2.0
"""Add async_action.task_key.

Actions that workers of older releases have registered have none: these know the job's secret, and use it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLE = "async_action"


def upgrade() -> None:
    """Add the column, where it is not there already (see 0001)."""
    existing = set() if op.get_context().as_sql else _columns()
    if "task_key" not in existing:
        op.add_column(_TABLE, sa.Column("task_key", sa.Text()))


def downgrade() -> None:
    """Drop the column: the server then refuses tasks whose action was registered with a task key."""
    with op.batch_alter_table(_TABLE) as table:
        table.drop_column("task_key")


def _columns() -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(_TABLE)}
