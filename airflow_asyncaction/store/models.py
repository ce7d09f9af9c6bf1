# SPDX-License-Identifier: Apache-2.0
"""Tables. ``airflow db migrate`` creates new databases from them, so migrations must match."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.mysql import LONGTEXT

from airflow_asyncaction.airflow_internals.server.database import UtcDateTime
from airflow_asyncaction.protocol.actions import ActionOptions, Completion
from airflow_asyncaction.protocol.options import DURATION, FLAG, LINES, NAME, choice, options_of
from airflow_asyncaction.protocol.reports import MAX_LISTED_CHARS

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite autoincrements INTEGER primary keys only.
_row_id = BigInteger().with_variant(Integer, "sqlite")
# MySQL limits TEXT to 64 KiB.
_json_text = Text().with_variant(LONGTEXT, "mysql")
_action_id = Uuid(as_uuid=False)

IS_UNMARKED = text("awaited IS NULL AND state IN ('STARTING', 'RUNNING')")
"""Matches actions that API servers of older releases registered without marking them as awaited.

It is text, so that queries always have the same condition as the partial index.
"""


def _option_columns() -> list[Column[Any]]:
    """Return a column for each option of :class:`ActionOptions`."""
    types: dict[Any, Any] = {
        FLAG: Boolean(create_constraint=False),
        LINES: Integer,
        NAME: String(250),
        DURATION: Float,
        choice(Completion): String(10),
    }
    return [
        Column(option.column, types[option.kind], nullable=option.is_optional)
        for option in options_of(ActionOptions)
    ]


def _has_partial_indexes(*_: object, dialect: Dialect, **__: object) -> bool:
    return dialect.name in ("postgresql", "sqlite")


action_table = Table(
    "async_action",
    metadata,
    Column("id", _action_id, primary_key=True),
    Column("type", String(250), nullable=False),
    Column("runner", String(50), nullable=False),
    Column("attempt", Integer, nullable=False),
    # The task instance. No foreign key: Airflow's tables are not in this metadata, and a task instance gets a
    # new id when it is cleared, while its actions are kept.
    Column("ti_id", _action_id, nullable=True),
    Column("dag_id", String(250), nullable=False),
    Column("run_id", String(250), nullable=False),
    Column("task_id", String(250), nullable=False),
    Column("map_index", Integer, nullable=False),
    # Iteration of the task's loop, from 0 (Airflow 3.4). -1 outside loops and in rows of earlier releases.
    Column("iteration", Integer, nullable=False, server_default="-1"),
    # Hex sha256 of the nonce that registered the action.
    Column("registration_digest", String(64), nullable=False),
    # Signing key of the job, Fernet-encrypted.
    Column("secret", Text, nullable=False),
    # The request.
    Column("arguments", _json_text, nullable=False),
    *_option_columns(),
    # The current state.
    Column("state", String(20), nullable=False),
    Column("reported", String(20), nullable=True),
    Column("status_details", _json_text, nullable=True),
    Column("results", _json_text, nullable=True),
    Column("error_name", String(250), nullable=True),
    Column("error_message", _json_text, nullable=True),
    Column("agent", _json_text, nullable=True),
    Column("job", _json_text, nullable=True),
    Column("exit", _json_text, nullable=True),
    Column("verb", String(10), nullable=True),
    Column("stop_reason", String(50), nullable=True),
    Column("fenced", Boolean(create_constraint=False), nullable=False),
    # Lines are numbered from 1. Those up to log_lines_dropped were dropped.
    Column("log_lines", Integer, nullable=False),
    Column("log_lines_dropped", Integer, nullable=False),
    Column("report_count", Integer, nullable=False),
    Column("refused_count", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime, nullable=True),
    Column("last_report_at", UtcDateTime, nullable=True),
    Column("ended_at", UtcDateTime, nullable=True),
    # The recency column of `airflow db clean`. Reports update it, so running actions are not deleted. Not
    # indexed, so that reports do not have to update an index (PostgreSQL: HOT).
    Column("updated_at", UtcDateTime, nullable=False),
    # TRUE if the job may outlive its worker. NULL, in rows of earlier releases, means FALSE.
    Column("adoptable", Boolean(create_constraint=False), nullable=True),
    # protocol.tasks.Deferral: how the server completes the task. NULL if the task is not deferred.
    Column("deferral", Text, nullable=True),
    # Only for actions that a user launched as an operation: user, time of the request, and scheduled time.
    # created_at is then the time of registration, from which timeouts count.
    Column("requested_by", String(250), nullable=True),
    Column("requested_at", UtcDateTime, nullable=True),
    Column("scheduled_at", UtcDateTime, nullable=True),
    # Hex sha256 of user, operation and Idempotency-Key, which identify the action.
    Column("idempotency_digest", String(64), nullable=True),
    # Hex sha256 of the rest of the request, which must not change for the same key.
    Column("request_digest", String(64), nullable=True),
    # W3C trace context of the task instance.
    Column("traceparent", String(55), nullable=True),
    # Only for webda jobs: service and method to call with the arguments. Either both are set or neither.
    Column("service_name", String(250), nullable=True),
    Column("method", String(250), nullable=True),
    # Signing key of the task, Fernet-encrypted. NULL if an older release registered it: the task
    # signs with the job's secret.
    Column("task_key", Text, nullable=True),
    # TRUE from registration until Action.is_done, then NULL, so that its partial index is small.
    Column("awaited", Boolean(create_constraint=False), nullable=True),
    # Both Fernet-encrypted: the secrets to mask in reports, as a JSON list, and the unmasked arguments if
    # `arguments` is masked.
    Column("masks", _json_text, nullable=True),
    Column("sealed_arguments", _json_text, nullable=True),
    # Size of the stored log lines. NULL: 0, or unknown in rows of earlier releases.
    Column("log_bytes", BigInteger, nullable=True),
    # From status_details, which may be too large for lists.
    Column("progress", Float, nullable=True),
    Column("message", String(MAX_LISTED_CHARS), nullable=True),
    # Incremented by each update (rows.changed), so that a report can be written without a lock if the row is
    # still as it was read (report_batches).
    Column("revision", Integer, nullable=False, server_default="0"),
    UniqueConstraint("ti_id"),
    Index(None, "idempotency_digest", unique=True),
    Index(None, "dag_id", "run_id", "task_id", "map_index"),
    # Ids are UUIDv7, ordered by time: a page of a list is a range of one of these or the primary key.
    Index(None, "dag_id", "state", "id"),
    Index(None, "type", "state", "id"),
    Index(None, "state", "id"),
    Index(
        None,
        "awaited",
        "id",
        postgresql_where=text("awaited IS NOT NULL"),
        sqlite_where=text("awaited IS NOT NULL"),
    ),
    # Usually empty. MySQL has no partial indexes: there, the index on (state, id) finds unmarked actions.
    Index("ix_async_action_unmarked", "id", postgresql_where=IS_UNMARKED, sqlite_where=IS_UNMARKED).ddl_if(
        callable_=_has_partial_indexes
    ),
)

report_table = Table(
    "async_action_report",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    # No foreign key: `airflow db clean` archives and deletes tables separately.
    Column("action_id", _action_id, nullable=False),
    # Identifies a report within its action (signing.report_key). NULL for refusals after which a
    # resent report is checked anew.
    Column("report_key", String(64), nullable=True),
    Column("scheme", String(10), nullable=False),
    Column("body_sha256", String(64), nullable=False),
    # "heartbeat", a status, or a runner message: "launched", "exit", "stop", ...
    Column("kind", String(20), nullable=False),
    # Error code of a refusal, with the truncated body. NULL if accepted.
    Column("refused_with", String(50), nullable=True),
    Column("body", Text, nullable=True),
    Column("logs", _json_text, nullable=True),
    Column("log_count", Integer, nullable=False),
    Column("last_line", Integer, nullable=True),
    Column("received_at", UtcDateTime, nullable=False),
    # User who requested it, for example a stop.
    Column("requested_by", String(250), nullable=True),
    # Size of the stored log lines.
    Column("log_bytes", Integer, nullable=True),
    UniqueConstraint("action_id", "report_key"),
    Index(None, "action_id", "last_line"),
)

content_table = Table(
    "async_action_content",
    metadata,
    Column("id", _action_id, primary_key=True),
    # Name of the file store. It stores content by id, so that URLs do not reveal digests.
    Column("store", String(50), nullable=False),
    # Lower-case hex. A challenge is proven if the server or a trusted party computed it from the content.
    # That of content uploaded directly to an object store is only announced.
    Column("md5", String(32), nullable=False),
    Column("challenge", String(32), nullable=False),
    Column("challenge_proven", Boolean(create_constraint=False), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint(
        "md5", "challenge", "size_bytes", "sha256", "store", name="uq_async_action_content_digests"
    ),
)

file_table = Table(
    "async_action_file",
    metadata,
    Column("id", _action_id, primary_key=True),
    Column("action_id", _action_id, nullable=False),
    Column("property", String(64), nullable=False),
    Column("file_index", Integer, nullable=False),
    Column("role", String(10), nullable=False),
    Column("name", String(255), nullable=False),
    Column("mimetype", String(127), nullable=False),
    Column("file_metadata", _json_text, nullable=False),
    # The announcement. Only its sender sees a file before it is attached, that is before its content is
    # stored and verified.
    Column("store", String(50), nullable=False),
    Column("md5", String(32), nullable=False),
    Column("challenge", String(32), nullable=False),
    Column("sha256", String(64), nullable=True),
    Column("size_bytes", BigInteger, nullable=True),
    Column("announced_at", UtcDateTime, nullable=False),
    # The foreign key prevents the deletion of content that a file refers to.
    Column("content_id", _action_id, ForeignKey("async_action_content.id"), nullable=True),
    Column("attached_at", UtcDateTime, nullable=True),
    UniqueConstraint("action_id", "property", "file_index"),
    Index(None, "content_id"),
)
