# SPDX-License-Identifier: Apache-2.0
"""Limits how many threads use the database at a time."""

from __future__ import annotations

import threading

from sqlalchemy import Engine
from sqlalchemy.pool import QueuePool

from airflow_asyncaction.exceptions import StoreUnavailable

_TURN_SECONDS = 30  # as long as SQLAlchemy waits for a connection


class Turns:
    """Limits the threads that use the database to the size of its connection pool.

    Any further thread would open a connection for a single transaction, which costs more than waiting.
    """

    def __init__(self, engine: Engine) -> None:
        size = engine.pool.size() if isinstance(engine.pool, QueuePool) else 0
        self._slots = threading.BoundedSemaphore(size) if size > 0 else None

    def __enter__(self) -> None:
        if self._slots is not None and not self._slots.acquire(timeout=_TURN_SECONDS):
            raise StoreUnavailable

    def __exit__(self, *_: object) -> None:
        if self._slots is not None:
            self._slots.release()
