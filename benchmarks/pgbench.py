# SPDX-License-Identifier: Apache-2.0
"""pgbench: transactions per second of bare PostgreSQL that do to the database what one report does."""

from __future__ import annotations

from pathlib import Path

from dev.postgres import Postgres

_SCRIPT = Path(__file__).with_name("report.sql")
_COPIES = Path(__file__).with_name("actions.sql")


class Pgbench:
    """Runs the transaction of a report with a number of clients, each on an action of its own.

    :param database_url: database with at least one action, of which pgbench gets copies
    """

    def __init__(self, postgres: Postgres, database_url: str) -> None:
        self._postgres = postgres
        self._database = database_url.rpartition("/")[2]
        self.is_installed = (postgres.bin / "pgbench").exists()
        if self.is_installed:
            postgres.run("psql", "--no-psqlrc", "--quiet", f"--dbname={self._database}", f"--file={_COPIES}")

    def measure(self, clients: int, *, seconds: int = 4) -> float:
        """Return the transactions per second."""
        options = ["-n", "-c", str(clients), "-j", "1", "-T", str(seconds), "-M", "prepared"]
        printed = self._postgres.run("pgbench", *options, "-f", str(_SCRIPT), self._database).stdout
        line = next(line for line in printed.splitlines() if line.startswith("tps"))
        return float(line.split()[2])
