# SPDX-License-Identifier: Apache-2.0
"""Database: runs transactions on Airflow's metadata database, limited to the size of its pool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from airflow_asyncaction.exceptions import StoreUnavailable, TablesMissing
from airflow_asyncaction.store import end_events
from airflow_asyncaction.store.models import metadata

_WAIT_SECONDS = 30  # SQLAlchemy's default pool_timeout

T = TypeVar("T")


class Database:
    """Runs transactions on the engine of Airflow's metadata database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection_limit = ConnectionLimit(engine)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run one transaction. After the commit, emit metrics and spans of the actions that ended in it.

        :raises StoreUnavailable: the database does not answer
        """
        with database_outages(), self._connection_limit, self._engine.begin() as connection:
            ended = end_events.begin(connection)
            yield connection
        end_events.emit(ended, self.transaction)

    def run_transaction(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction; retry it once if a concurrent transaction wrote the same key.

        :raises StoreUnavailable: the database does not answer
        """
        try:
            with self.transaction() as connection:
                return work(connection)
        except IntegrityError:
            with self.transaction() as connection:
                return work(connection)

    def check_tables(self) -> None:
        """Check that the tables exist.

        :raises TablesMissing: some do not
        """
        with self.transaction() as connection:
            if not set(metadata.tables) <= set(inspect(connection).get_table_names()):
                raise TablesMissing


class ConnectionLimit:
    """Limits the threads that use the database to the size of its connection pool.

    Each further thread would open an overflow connection for a single transaction, which costs more than
    waiting. Engines without a pool have no limit.
    """

    def __init__(self, engine: Engine) -> None:
        size = engine.pool.size() if isinstance(engine.pool, QueuePool) else 0
        self._slots = threading.BoundedSemaphore(size) if size > 0 else None

    def __enter__(self) -> None:
        if self._slots is not None and not self._slots.acquire(timeout=_WAIT_SECONDS):
            raise StoreUnavailable

    def __exit__(self, *_: object) -> None:
        if self._slots is not None:
            self._slots.release()


@contextmanager
def database_outages() -> Iterator[None]:
    """Convert outages of the database to StoreUnavailable. Other database errors are passed on.

    :raises StoreUnavailable: the database does not answer; retry later
    """
    try:
        yield
    except (OperationalError, PoolTimeout) as error:
        raise StoreUnavailable from error
    except DBAPIError as error:
        error.hide_parameters = True  # the parameters contain a job's data, which must not be logged
        if error.connection_invalidated:
            raise StoreUnavailable from error
        raise
