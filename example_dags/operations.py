# SPDX-License-Identifier: Apache-2.0
"""Operations: users who may trigger these Dags can launch them over HTTP.

::

    curl -X PUT "$AIRFLOW/async/orders.export" -H "Authorization: Bearer $TOKEN" -d '{"month": "2026-11"}'

Airflow's trigger form has a field for each argument. The first operation also runs every night.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from airflow_asyncaction.dags import async_operation, load_operations
from airflow_asyncaction.job import Job


@async_operation(id="orders.count", schedule="0 3 * * *", tags=["asyncaction"])
def count(country: str = "all", steps: int = 5, *, job: Job) -> dict[str, str | int]:
    """Count the orders of a country."""
    for step in range(steps):
        job.progress(100 * step / steps, f"part {step + 1} of {steps}")
        time.sleep(0.2)
    return {"country": country, "orders": 120 * steps}


@async_operation(id="orders.export", tags=["asyncaction"])
def export(month: str, format: Literal["csv", "json"] = "csv", *, job: Job) -> str:  # noqa: A002
    """Export the orders of a month."""
    job.log(f"exporting {month}")
    return f"orders-{month}.{format}"


# [asyncaction] runners configures the runners of these operations, by type.
load_operations(Path(__file__).with_name("operations.json"), tags=["asyncaction"])
