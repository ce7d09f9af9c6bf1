# SPDX-License-Identifier: Apache-2.0
"""Costs of queries: what is sent to the database, and how many blocks PostgreSQL reads for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

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
