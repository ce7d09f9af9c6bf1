# SPDX-License-Identifier: Apache-2.0
"""Rename the columns that hold digests: registration, idempotency and request get the suffix _digest."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TABLE = "async_action"
_OLD_INDEX, _NEW_INDEX = "ix_async_action_idempotency", "ix_async_action_idempotency_digest"
_IS_NULLABLE = {"registration": False, "idempotency": True, "request": True}


def upgrade() -> None:
    """Rename the columns and the index on the idempotency key, unless that was done before (see 0001)."""
    columns, indexes = _existing()
    if _OLD_INDEX in indexes:
        op.drop_index(_OLD_INDEX, _TABLE)
    for name, is_nullable in _IS_NULLABLE.items():
        new_name = f"{name}_digest"
        if new_name not in columns:
            _rename(name, new_name, is_nullable=is_nullable)
        elif name in columns:  # 0004 has added an empty one
            with op.batch_alter_table(_TABLE) as table:
                table.drop_column(name)
    if _NEW_INDEX not in indexes:
        op.create_index(_NEW_INDEX, _TABLE, ["idempotency_digest"], unique=True)


def downgrade() -> None:
    """Restore the names. No values are lost."""
    op.drop_index(_NEW_INDEX, _TABLE)
    for name, is_nullable in _IS_NULLABLE.items():
        _rename(f"{name}_digest", name, is_nullable=is_nullable)
    op.create_index(_OLD_INDEX, _TABLE, ["idempotency"], unique=True)


def _rename(name: str, new_name: str, *, is_nullable: bool) -> None:
    # Not in a batch: SQLite would copy the whole table. MySQL needs type and nullability.
    op.alter_column(
        _TABLE, name, new_column_name=new_name, existing_type=sa.String(64), existing_nullable=is_nullable
    )


def _existing() -> tuple[set[str], set[str | None]]:
    """Return the names of the table's columns and indexes; as 0009 leaves them if SQL is only printed."""
    if op.get_context().as_sql:
        return set(_IS_NULLABLE), {_OLD_INDEX}
    inspector = sa.inspect(op.get_bind())
    columns = {column["name"] for column in inspector.get_columns(_TABLE)}
    return columns, {index["name"] for index in inspector.get_indexes(_TABLE)}
