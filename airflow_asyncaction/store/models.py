# SPDX-License-Identifier: Apache-2.0
"""The tables. Migrations must make exactly these: ``airflow db migrate`` creates a new database from here."""

from __future__ import annotations

from typing import Any

from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
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

# SQLite numbers rows by itself only for INTEGER primary keys.
_row_id = BigInteger().with_variant(Integer, "sqlite")
# MySQL's TEXT ends at 64 KiB.
_json_text = Text().with_variant(LONGTEXT, "mysql")
_action_id = Uuid(as_uuid=False)


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


action_table = Table(
    "async_action",
    metadata,
    Column("id", _action_id, primary_key=True),
    Column("type", String(250), nullable=False),
    Column("runner", String(50), nullable=False),
    Column("attempt", Integer, nullable=False),
    # The task instance it belongs to. No foreign keys: Airflow's tables are not in this metadata, and a
    # cleared try takes a new id while its actions stay.
    Column("ti_id", _action_id, nullable=True),
    Column("dag_id", String(250), nullable=False),
    Column("run_id", String(250), nullable=False),
    Column("task_id", String(250), nullable=False),
    Column("map_index", Integer, nullable=False),
    # Proof of who registered it (sha256 of the nonce, hex), and the job's secret, Fernet-encrypted.
    Column("registration", String(64), nullable=False),
    Column("secret", Text, nullable=False),
    # What was asked for.
    Column("arguments", _json_text, nullable=False),
    *_option_columns(),
    # Where it stands.
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
    # Lines are numbered from 1; those up to log_lines_dropped are gone.
    Column("log_lines", Integer, nullable=False),
    Column("log_lines_dropped", Integer, nullable=False),
    Column("report_count", Integer, nullable=False),
    Column("refused_count", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime, nullable=True),
    Column("last_report_at", UtcDateTime, nullable=True),
    Column("ended_at", UtcDateTime, nullable=True),
    # What `airflow db clean` goes by: an action that still lives is never old. Not indexed, so that
    # PostgreSQL can update a row in place (HOT) with every report.
    Column("updated_at", UtcDateTime, nullable=False),
    # Whether the job may outlive its worker; NULL, in rows of before, is False.
    Column("adoptable", Boolean(create_constraint=False), nullable=True),
    # How the server is to complete the task (protocol.tasks.Deferral) while no worker waits for it.
    Column("deferral", Text, nullable=True),
    # Of an action that was asked for before its task ran: who did, when, and for when. created_at is then the
    # moment its task registered it, by which its clocks go.
    Column("requested_by", String(250), nullable=True),
    Column("requested_at", UtcDateTime, nullable=True),
    Column("scheduled_at", UtcDateTime, nullable=True),
    # sha256, hex, of who asked, for what, and their key: the same key is the same action.
    Column("idempotency", String(64), nullable=True),
    # ... and of what else they asked for: with the same key it must be the same.
    Column("request", String(64), nullable=True),
    # W3C trace context of the task.
    Column("traceparent", String(55), nullable=True),
    # For a webda job: the service and the method to call with the arguments. Both or neither.
    Column("service_name", String(250), nullable=True),
    Column("method", String(250), nullable=True),
    # What the task signs with, Fernet-encrypted. NULL: its job's secret, for workers of older releases.
    Column("task_key", Text, nullable=True),
    # TRUE from its registration until it is done (Action.is_done), then NULL: few rows of many have it.
    Column("awaited", Boolean(create_constraint=False), nullable=True),
    # Both Fernet-encrypted: the secrets that the task knows, as a JSON list, to be masked in what the job
    # reports; and the arguments as the job gets them, where those above are masked.
    Column("masks", _json_text, nullable=True),
    Column("sealed_arguments", _json_text, nullable=True),
    # Size of the lines that are kept. NULL: 0, and in rows of earlier releases not known.
    Column("log_bytes", BigInteger, nullable=True),
    # What lists show of status_details, which may be large.
    Column("progress", Float, nullable=True),
    Column("message", String(MAX_LISTED_CHARS), nullable=True),
    UniqueConstraint("ti_id"),
    Index(None, "idempotency", unique=True),
    Index(None, "dag_id", "run_id", "task_id", "map_index"),
    # Ids are of version 7, in order of time: a page of a list is a range of one of these, or of the key.
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
)

report_table = Table(
    "async_action_report",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    # No foreign key: `airflow db clean` archives and deletes each table by itself.
    Column("action_id", _action_id, nullable=False),
    # What identifies a report within its action: the nonce. NULL where it was used before.
    Column("report_key", String(64), nullable=True),
    Column("scheme", String(10), nullable=False),
    Column("body_sha256", String(64), nullable=False),
    # What came: "heartbeat", a status, or the runner's "launched", "exit", "stop", ...
    Column("kind", String(20), nullable=False),
    # NULL if accepted, else the code of the refusal, with the body, cut.
    Column("refused_with", String(50), nullable=True),
    Column("body", Text, nullable=True),
    Column("logs", _json_text, nullable=True),
    Column("log_count", Integer, nullable=False),
    Column("last_line", Integer, nullable=True),
    Column("received_at", UtcDateTime, nullable=False),
    # Name of the user who asked for it, such as for a stop.
    Column("requested_by", String(250), nullable=True),
    # Size of the log lines.
    Column("log_bytes", Integer, nullable=True),
    UniqueConstraint("action_id", "report_key"),
    Index(None, "action_id", "last_line"),
)

content_table = Table(
    "async_action_content",
    metadata,
    Column("id", _action_id, primary_key=True),
    # Name of the file store that has it, under its id: nothing in a URL tells the digests.
    Column("store", String(50), nullable=False),
    # Lower-case hex. A challenge is proven if the server, or who can be trusted, digested the content: what
    # went to an object store directly has the one that was announced.
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
    # What was announced. Nobody but who announced it sees a file before it is attached: before its content
    # is there, and verified.
    Column("store", String(50), nullable=False),
    Column("md5", String(32), nullable=False),
    Column("challenge", String(32), nullable=False),
    Column("sha256", String(64), nullable=True),
    Column("size_bytes", BigInteger, nullable=True),
    Column("announced_at", UtcDateTime, nullable=False),
    # A content that a file refers to cannot be deleted: the key is what makes that true at every moment.
    Column("content_id", _action_id, ForeignKey("async_action_content.id"), nullable=True),
    Column("attached_at", UtcDateTime, nullable=True),
    UniqueConstraint("action_id", "property", "file_index"),
    Index(None, "content_id"),
)
