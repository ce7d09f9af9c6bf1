# SPDX-License-Identifier: Apache-2.0
"""Create async_action and async_action_report.

Existing tables are left unchanged: if the version table was lost, Airflow stamps the first revision and
upgrades from there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

from airflow_asyncaction.airflow_internals.server.migration_types import TIMESTAMP

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_json_text = sa.Text().with_variant(LONGTEXT, "mysql")


def upgrade() -> None:
    """Create the tables."""
    existing = set() if op.get_context().as_sql else set(sa.inspect(op.get_bind()).get_table_names())
    if "async_action" not in existing:
        _create_action()
    if "async_action_report" not in existing:
        _create_report()


def downgrade() -> None:
    """Drop the tables, including all actions."""
    op.drop_table("async_action_report")
    op.drop_table("async_action")


def _create_action() -> None:
    op.create_table(
        "async_action",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.String(250), nullable=False),
        sa.Column("runner", sa.String(50), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("ti_id", sa.Uuid(), nullable=True),
        sa.Column("dag_id", sa.String(250), nullable=False),
        sa.Column("run_id", sa.String(250), nullable=False),
        sa.Column("task_id", sa.String(250), nullable=False),
        sa.Column("map_index", sa.Integer(), nullable=False),
        sa.Column("registration", sa.String(64), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("accept_v1", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("arguments", _json_text, nullable=False),
        sa.Column("completion", sa.String(10), nullable=False),
        sa.Column("require_report", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("start_timeout_seconds", sa.Float(), nullable=True),
        sa.Column("heartbeat_timeout_seconds", sa.Float(), nullable=True),
        sa.Column("log_limit", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reported", sa.String(20), nullable=True),
        sa.Column("status_details", _json_text, nullable=True),
        sa.Column("results", _json_text, nullable=True),
        sa.Column("error_name", sa.String(250), nullable=True),
        sa.Column("error_message", _json_text, nullable=True),
        sa.Column("agent", _json_text, nullable=True),
        sa.Column("job", _json_text, nullable=True),
        sa.Column("exit", _json_text, nullable=True),
        sa.Column("verb", sa.String(10), nullable=True),
        sa.Column("stop_reason", sa.String(50), nullable=True),
        sa.Column("fenced", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("log_lines", sa.Integer(), nullable=False),
        sa.Column("log_lines_dropped", sa.Integer(), nullable=False),
        sa.Column("report_count", sa.Integer(), nullable=False),
        sa.Column("refused_count", sa.Integer(), nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("started_at", TIMESTAMP, nullable=True),
        sa.Column("last_report_at", TIMESTAMP, nullable=True),
        sa.Column("ended_at", TIMESTAMP, nullable=True),
        sa.Column("updated_at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_async_action"),
        sa.UniqueConstraint("ti_id", name="uq_async_action_ti_id"),
    )
    op.create_index(
        "ix_async_action_dag_id_run_id_task_id_map_index",
        "async_action",
        ["dag_id", "run_id", "task_id", "map_index"],
    )


def _create_report() -> None:
    op.create_table(
        "async_action_report",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=True
        ),
        sa.Column("action_id", sa.Uuid(), nullable=False),
        sa.Column("report_key", sa.String(64), nullable=True),
        sa.Column("scheme", sa.String(10), nullable=False),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("refused_with", sa.String(50), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("logs", _json_text, nullable=True),
        sa.Column("log_count", sa.Integer(), nullable=False),
        sa.Column("last_line", sa.Integer(), nullable=True),
        sa.Column("received_at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_async_action_report"),
        sa.UniqueConstraint("action_id", "report_key", name="uq_async_action_report_action_id_report_key"),
    )
    op.create_index(
        "ix_async_action_report_action_id_last_line", "async_action_report", ["action_id", "last_line"]
    )
