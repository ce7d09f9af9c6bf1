# SPDX-License-Identifier: Apache-2.0
"""Create async_action_content and async_action_file."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

from airflow_asyncaction.airflow_internals.server.migration_types import TIMESTAMP

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables unless they exist (see 0001)."""
    existing = set() if op.get_context().as_sql else set(sa.inspect(op.get_bind()).get_table_names())
    if "async_action_content" not in existing:
        _create_content()
    if "async_action_file" not in existing:
        _create_file()


def downgrade() -> None:
    """Drop the tables, including the records of all files. Contents stay in the file stores."""
    op.drop_table("async_action_file")
    op.drop_table("async_action_content")


def _create_content() -> None:
    op.create_table(
        "async_action_content",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("store", sa.String(50), nullable=False),
        sa.Column("md5", sa.String(32), nullable=False),
        sa.Column("challenge", sa.String(32), nullable=False),
        sa.Column("challenge_proven", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_async_action_content"),
        sa.UniqueConstraint(
            "md5", "challenge", "size_bytes", "sha256", "store", name="uq_async_action_content_digests"
        ),
    )


def _create_file() -> None:
    op.create_table(
        "async_action_file",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("action_id", sa.Uuid(), nullable=False),
        sa.Column("property", sa.String(64), nullable=False),
        sa.Column("file_index", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("mimetype", sa.String(127), nullable=False),
        sa.Column("file_metadata", sa.Text().with_variant(LONGTEXT, "mysql"), nullable=False),
        sa.Column("store", sa.String(50), nullable=False),
        sa.Column("md5", sa.String(32), nullable=False),
        sa.Column("challenge", sa.String(32), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("announced_at", TIMESTAMP, nullable=False),
        sa.Column("content_id", sa.Uuid(), nullable=True),
        sa.Column("attached_at", TIMESTAMP, nullable=True),
        sa.ForeignKeyConstraint(
            ["content_id"], ["async_action_content.id"], name="fk_async_action_file_content_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_async_action_file"),
        sa.UniqueConstraint(
            "action_id", "property", "file_index", name="uq_async_action_file_action_id_property_file_index"
        ),
    )
    op.create_index("ix_async_action_file_content_id", "async_action_file", ["content_id"])
