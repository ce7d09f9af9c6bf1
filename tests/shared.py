# SPDX-License-Identifier: Apache-2.0
"""Services shared by all processes of a test run: PostgreSQL, and databases migrated once and copied."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.postgres import Postgres, PostgresError
from tests.requirements import leave_out

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
"""Name of this process within the run."""

_TEMPLATE = "migrated"
_CONNECTIONS = 400
WITH_FAB = {
    "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
}
"""For the tables of its users, beside all others."""

_URL = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


@dataclass(frozen=True)
class SharedServices:
    """Services that the first process starts on demand, and :meth:`stop` ends after all tests.

    :param folder: folder of the whole run
    """

    folder: Path

    def postgres(self) -> Postgres:
        """Return the PostgreSQL server."""
        with self._locked():
            return self._postgres()

    def migrated_postgres(self, name: str) -> str:
        """Create a PostgreSQL database with all of Airflow's and our tables; return its URL."""
        with self._locked():  # a template may not be in use while it is copied
            server, marker = self._postgres(), self.folder / "postgres.migrated"
            if not marker.exists():
                run_airflow(server.create(_TEMPLATE), "db", "migrate", environ=WITH_FAB)
                marker.touch()
            return server.create(name, template=_TEMPLATE)

    def migrated_sqlite(self, path: Path) -> str:
        """Create an SQLite database with all of Airflow's and our tables; return its URL."""
        with self._locked():
            template = self.folder / "migrated.db"
            if not template.exists():
                partial = template.with_suffix(".partial")
                run_airflow(f"sqlite:///{partial}", "db", "migrate")
                partial.rename(template)
        shutil.copyfile(template, path)
        return f"sqlite:///{path}"

    def stop(self) -> None:
        """Stop the started services."""
        record = self._record
        if record.exists():
            Postgres.from_json(json.loads(record.read_text())).stop()
            record.unlink()

    @property
    def _record(self) -> Path:
        return self.folder / "postgres.json"

    def _postgres(self) -> Postgres:
        if self._record.exists():
            return Postgres.from_json(json.loads(self._record.read_text()))
        try:
            server = Postgres(max_connections=_CONNECTIONS).__enter__()
        except PostgresError as error:
            leave_out(error.reason)
        self._record.write_text(json.dumps(server.to_json()))
        return server

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def run_airflow(
    url: str, *arguments: str, environ: dict[str, str] | None = None, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run ``airflow ...`` on a database in a separate process, and check that it succeeds."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *arguments],
        env={**os.environ, _URL: url, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done
