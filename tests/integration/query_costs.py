# SPDX-License-Identifier: Apache-2.0
"""Costs of queries: what is sent to the database, and how many blocks PostgreSQL reads for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, TextClause, event, text

from tests.integration.databases import Database


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Yield what is sent to the database meanwhile."""
    sent: list[tuple[str, Any]] = []

    def note(*args: Any) -> None:
        sent.append((args[2], args[3]))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def blocks_read(connection: Connection, statement: str, parameters: Any) -> int:
    """Return how many blocks of 8 KiB PostgreSQL looks at for a statement."""
    explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
    found = explained.scalar_one()
    (plan,) = found if isinstance(found, list) else json.loads(found)
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])


def fill_statement(count: int, *, type_: str, dag_id: str, state: str, awaited: str) -> TextClause:
    """Return the statement that inserts many actions, with ids in the order of ``n`` from 1 to ``count``.

    :param type_: SQL expression of ``n``, like the others
    """
    return text(f"""
    INSERT INTO async_action (
        id, type, runner, attempt, dag_id, run_id, task_id, map_index, registration_digest, secret, accept_v1,
        arguments, completion, require_report, max_log_lines, state, fenced, log_lines, log_lines_dropped,
        report_count, refused_count, created_at, updated_at, awaited)
    SELECT
        (lpad(to_hex(1790000000000 + n), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
        {type_}, 'local', 1, {dag_id}, 'run_' || n, 'task', -1, 'x', repeat('x', 200), true, '{{}}', 'exit',
        false, 10000, {state}, false, 0, 0, 3, 0, now(), now(), {awaited}
    FROM generate_series(1, {count}) AS n
""")  # noqa: S608 - of tests
