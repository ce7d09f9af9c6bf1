# SPDX-License-Identifier: Apache-2.0
"""Add log_bytes to actions and reports, and the progress and message of actions for lists."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_MAX_MESSAGE_CHARS = 300
_BATCH = 50  # each may have a MiB
_ADDED: dict[str, dict[str, Any]] = {
    "async_action": {"log_bytes": sa.BigInteger(), "progress": sa.Float(), "message": sa.String(300)},
    "async_action_report": {"log_bytes": sa.Integer()},
}
_actions = sa.table(
    "async_action",
    sa.column("id", sa.Uuid(as_uuid=False)),
    sa.column("status_details", sa.Text()),
    sa.column("progress", sa.Float()),
    sa.column("message", sa.String()),
)


def upgrade() -> None:
    """Add the columns unless they exist (see 0001), and fill progress and message."""
    is_offline = op.get_context().as_sql
    for table, columns in _ADDED.items():
        existing = set() if is_offline else _columns(table)
        for name, kind in columns.items():
            if name not in existing:
                op.add_column(table, sa.Column(name, kind))
    if not is_offline:
        _fill(op.get_bind())


def downgrade() -> None:
    """Drop the columns. Lists read the status details again."""
    for table, columns in _ADDED.items():
        with op.batch_alter_table(table) as batch:
            for name in columns:
                batch.drop_column(name)


def _fill(connection: sa.Connection) -> None:
    columns, after = _actions.c, ""
    unfilled = (
        sa.select(columns.id, columns.status_details)
        .where(columns.status_details.is_not(None), columns.progress.is_(None), columns.message.is_(None))
        .order_by(columns.id)
        .limit(_BATCH)
    )
    while rows := connection.execute(unfilled.where(columns.id > after) if after else unfilled).all():
        for row in rows:
            progress, message = _listed(json.loads(row.status_details))
            values = {"progress": progress, "message": message}
            connection.execute(sa.update(_actions).where(columns.id == row.id).values(values))
        after = rows[-1].id


def _listed(details: Any) -> tuple[float | None, str | None]:
    progress, message = details, None
    if isinstance(details, dict):
        progress, message = details.get("progress"), details.get("message")
    is_number = isinstance(progress, (int, float)) and not isinstance(progress, bool)
    text = None if message is None else str(message).replace("\0", "\N{REPLACEMENT CHARACTER}")
    return progress if is_number else None, text and text[:_MAX_MESSAGE_CHARS]


def _columns(table: str) -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
