# SPDX-License-Identifier: Apache-2.0
"""Add async_action.task_key, and async_action.awaited with an index.

Actions registered by workers of older releases have no task key: those workers use the job's secret.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLE = "async_action"
_INDEX = "ix_async_action_awaited_id"
_IS_AWAITED = sa.text("awaited IS NOT NULL")
_actions = sa.table(
    _TABLE,
    sa.column("awaited", sa.Boolean()),
    sa.column("state", sa.String()),
    sa.column("completion", sa.String()),
    sa.column("fenced", sa.Boolean()),
    sa.column("exit", sa.Text()),
)


def upgrade() -> None:
    """Add the columns and the index unless they exist (see 0001), and mark the actions that are not done."""
    is_offline = op.get_context().as_sql
    inspector = None if is_offline else sa.inspect(op.get_bind())
    existing = {column["name"] for column in inspector.get_columns(_TABLE)} if inspector else set()
    indexes = {index["name"] for index in inspector.get_indexes(_TABLE)} if inspector else set()
    if "task_key" not in existing:
        op.add_column(_TABLE, sa.Column("task_key", sa.Text()))
    if "awaited" not in existing:
        op.add_column(_TABLE, sa.Column("awaited", sa.Boolean(create_constraint=False)))
    op.execute(_mark_awaited())  # also if an earlier run added the column and broke off: MySQL commits that
    if _INDEX not in indexes:
        op.create_index(
            _INDEX, _TABLE, ["awaited", "id"], postgresql_where=_IS_AWAITED, sqlite_where=_IS_AWAITED
        )


def downgrade() -> None:
    """Drop them. The server then refuses tasks whose action was registered with a task key."""
    op.drop_index(_INDEX, _TABLE)
    with op.batch_alter_table(_TABLE) as table:
        table.drop_column("awaited")
        table.drop_column("task_key")


def _mark_awaited() -> sa.Update:
    """Return the update that marks the registered actions that are not done (see Action.is_done)."""
    columns = _actions.c
    has_ended = columns.state.in_(["SUCCESS", "ERROR", "TIMEOUT", "STOPPED"])
    waits_for_exit = sa.and_(
        columns.fenced == sa.false(), columns.completion != "report", columns.exit.is_(None)
    )
    return (
        sa.update(_actions)
        .where(columns.state.not_in(["SCHEDULED", "QUEUED"]), sa.or_(sa.not_(has_ended), waits_for_exit))
        .values(awaited=sa.true())
    )
