# SPDX-License-Identifier: Apache-2.0
"""Rename columns: digests get the suffix _digest, and log_limit becomes max_log_lines."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TABLE = "async_action"
_OLD_INDEX, _NEW_INDEX = "ix_async_action_idempotency", "ix_async_action_idempotency_digest"
_RENAMED: dict[str, sa.Column[Any]] = {
    "registration": sa.Column("registration_digest", sa.String(64), nullable=False),
    "idempotency": sa.Column("idempotency_digest", sa.String(64), nullable=True),
    "request": sa.Column("request_digest", sa.String(64), nullable=True),
    "log_limit": sa.Column("max_log_lines", sa.Integer(), nullable=False),
}


def upgrade() -> None:
    """Rename the columns, and the index on the idempotency key, unless they have been renamed (see 0001)."""
    columns, indexes = _existing()
    if _OLD_INDEX in indexes:
        op.drop_index(_OLD_INDEX, _TABLE)
    for old_name, column in _RENAMED.items():
        if column.name not in columns:
            _rename(old_name, column.name, column)
        elif old_name in columns:  # 0004 has added an empty one
            with op.batch_alter_table(_TABLE) as table:
                table.drop_column(old_name)
    if _NEW_INDEX not in indexes:
        op.create_index(_NEW_INDEX, _TABLE, ["idempotency_digest"], unique=True)


def downgrade() -> None:
    """Restore the names. No values are lost."""
    op.drop_index(_NEW_INDEX, _TABLE)
    for old_name, column in _RENAMED.items():
        _rename(column.name, old_name, column)
    op.create_index(_OLD_INDEX, _TABLE, ["idempotency"], unique=True)


def _rename(name: str, new_name: str, column: sa.Column[Any]) -> None:
    # Not in a batch: SQLite would copy the whole table. MySQL needs type and nullability.
    op.alter_column(
        _TABLE,
        name,
        new_column_name=new_name,
        existing_type=column.type,
        existing_nullable=column.nullable,
    )


def _existing() -> tuple[set[str], set[str | None]]:
    """Return the names of the table's columns and indexes; as 0009 leaves them if SQL is only printed."""
    if op.get_context().as_sql:
        return set(_RENAMED), {_OLD_INDEX}
    inspector = sa.inspect(op.get_bind())
    columns = {column["name"] for column in inspector.get_columns(_TABLE)}
    return columns, {index["name"] for index in inspector.get_indexes(_TABLE)}
