# SPDX-License-Identifier: Apache-2.0
"""Real metadata database, which Airflow uses in this process and in others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflow import settings as airflow_settings
from sqlalchemy import Engine

from airflow_asyncaction.store import database as store_database
from tests.shared import run_airflow

_URL = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True, scope="session")
"""Mark of tests that only make sense on PostgreSQL."""


@dataclass(frozen=True)
class Database:
    """A metadata database of Airflow.

    :param name: ``sqlite`` or ``postgresql``
    """

    name: str
    url: str

    @property
    def engine(self) -> Engine:
        """Airflow's own engine, in this process, while the database is :meth:`in_use`."""
        engine = airflow_settings.get_engine()
        assert isinstance(engine, Engine)
        return engine

    @property
    def store(self) -> store_database.Database:
        """The package's view of the database, while it is :meth:`in_use`."""
        return store_database.Database(self.engine)

    @contextmanager
    def in_use(self) -> Iterator[Database]:
        """Make Airflow in this process use the database, as if it had been configured from the start."""
        before = os.environ.get(_URL)
        self._configure(self.url)
        try:
            yield self
        finally:
            self._configure(before)

    def airflow(
        self, *arguments: str, environ: dict[str, str] | None = None, fails: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run ``airflow ...`` on the database in a separate process, and check that it succeeds."""
        return run_airflow(self.url, *arguments, environ=environ, fails=fails)

    @staticmethod
    def _configure(url: str | None) -> None:
        airflow_settings.dispose_orm(do_log=False)
        if url is None:
            os.environ.pop(_URL, None)
        else:
            os.environ[_URL] = url
        airflow_settings.configure_vars()
        airflow_settings.configure_orm()


def sqlite_in(folder: Path) -> Database:
    """Return an SQLite database that does not exist yet."""
    return Database("sqlite", f"sqlite:///{folder / 'airflow.db'}")
