# SPDX-License-Identifier: Apache-2.0
"""``make bench``: runs all benchmarks on a private Airflow and PostgreSQL."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import gateway, overhead, reports, waiting
from dev.deployment import Deployment
from dev.postgres import Postgres

_NO_RATE_LIMIT = {"asyncaction": {"max_requests_per_second": "0", "max_bytes_per_second": "0"}}


def main() -> int:
    """Run the benchmarks and print the results."""
    dags = Path(__file__).with_name("dags")
    with Postgres(durable=True) as postgres, tempfile.TemporaryDirectory() as home:
        database_url = postgres.create("airflow")
        with Deployment(Path(home), dags=[dags], database_url=database_url, config=_NO_RATE_LIMIT) as airflow:
            overhead.run(airflow)
            for process in (airflow.scheduler, airflow.dag_processor, airflow.triggerer):
                process.kill()  # they would compete with the load
            reports.run(postgres, airflow)
            gateway.run(postgres, airflow)
            waiting.run(airflow)
    return 0


if __name__ == "__main__":
    sys.exit(main())
