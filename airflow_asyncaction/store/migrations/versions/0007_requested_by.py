# SPDX-License-Identifier: Apache-2.0
"""Add async_action_report.requested_by: the user who requested the event of a row in the timeline."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLE = "async_action_report"
_COLUMN = "requested_by"


def upgrade() -> None:
    """Add the column unless it exists (see 0001)."""
    existing = set() if op.get_context().as_sql else _columns()
    if _COLUMN not in existing:
        op.add_column(_TABLE, sa.Column(_COLUMN, sa.String(250)))


def downgrade() -> None:
    """Drop the column. The timeline no longer shows who stopped an action, but Airflow's audit log does."""
    with op.batch_alter_table(_TABLE) as table:
        table.drop_column(_COLUMN)


def _columns() -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(_TABLE)}
