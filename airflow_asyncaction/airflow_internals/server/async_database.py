# SPDX-License-Identifier: Apache-2.0
"""Async metadata database: connects to PostgreSQL with asyncpg, with the settings of Airflow's async engine.

Uses: ``airflow.settings`` (``SQL_ALCHEMY_CONN_ASYNC``, ``create_async_metadata_engine``,
``_get_connect_args``).

Checked with Airflow 3.3.2.

The engine is created as Airflow creates its own, so that ``[database] sql_alchemy_conn_async``,
``sql_alchemy_connect_args_async`` and an override of ``create_async_metadata_engine`` in
``airflow_local_settings.py`` apply. It has no pool: the pool of Airflow's engine belongs to Airflow's routes.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, cast
from uuid import uuid4

from airflow import settings
from airflow.configuration import conf
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import NullPool

_DRIVER = "postgresql+asyncpg"


class PreparedStatement(Protocol):
    """``asyncpg.prepared_stmt.PreparedStatement``."""

    async def fetch(self, *arguments: Any, timeout: float) -> list[Any]:  # noqa: ASYNC109 - its name
        """Execute the statement, and return its rows."""


class DriverConnection(Protocol):
    """``asyncpg.Connection``."""

    async def fetch(self, query: str, *arguments: Any, timeout: float) -> list[Any]:  # noqa: ASYNC109 - its name
        """Execute a query, and return its rows."""

    async def fetchval(self, query: str) -> Any:
        """Execute a query, and return the first value."""

    async def prepare(self, query: str, *, name: str) -> PreparedStatement:
        """Prepare a statement on the server.

        :param name: without it, the statement would not be kept by the server
        """

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Return a transaction."""

    def get_server_pid(self) -> int:
        """Return the process id that the server sent when the connection was opened."""

    def terminate(self) -> None:
        """Close the connection without waiting."""


class OpenConnection:
    """An open connection. asyncpg is used directly, since SQLAlchemy would cost more than the statement.

    :param is_direct: whether one server process serves the connection. Poolers such as pgbouncer may change
        it with each transaction: prepared statements are not safe then
    """

    def __init__(self, held: AsyncConnection, driver: DriverConnection, *, is_direct: bool) -> None:
        self._held = held
        self.driver = driver
        self.is_direct = is_direct

    async def close(self) -> None:
        """Close the connection without waiting for the server."""
        self.driver.terminate()
        await self._held.close()


def find_unsupported() -> str | None:
    """Return why asyncpg cannot be used; ``None`` if it can, as far as the configuration tells."""
    name = getattr(settings, "SQL_ALCHEMY_CONN_ASYNC", None)
    if not name:
        return "[database] sql_alchemy_conn_async is empty"
    driver = make_url(name).drivername
    return None if driver == _DRIVER else f"the driver of the metadata database is {driver}, not {_DRIVER}"


def max_age_seconds() -> float:
    """Return the age after which connections are replaced; negative if they are not."""
    return float(conf.getint("database", "sql_alchemy_pool_recycle", fallback=1800))


async def connect() -> OpenConnection:
    """Open a connection.

    :raises Exception: whatever SQLAlchemy, asyncpg or an override of Airflow's settings raise
    """
    held = await _create_engine().connect()
    try:
        driver = cast("DriverConnection", (await held.get_raw_connection()).driver_connection)
        async with driver.transaction():
            served_by = await driver.fetchval("SELECT pg_backend_pid()")
    except BaseException:
        await held.close()
        raise
    return OpenConnection(held, driver, is_direct=served_by == driver.get_server_pid())


def _create_engine() -> AsyncEngine:
    # Names of prepared statements must be unique behind a pooler. Ours are prepared explicitly, if at all.
    connect_args = {
        "prepared_statement_name_func": lambda: f"__asyncaction_{uuid4()}__",
        **settings._get_connect_args("async"),
        "prepared_statement_cache_size": 0,
        "statement_cache_size": 0,
    }
    return settings.create_async_metadata_engine(
        str(settings.SQL_ALCHEMY_CONN_ASYNC), connect_args=connect_args, engine_args={"poolclass": NullPool}
    )
