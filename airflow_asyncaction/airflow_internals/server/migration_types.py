# SPDX-License-Identifier: Apache-2.0
"""Column types for migrations, as Airflow's own migrations use them.

Uses: ``airflow.migrations.db_types.TIMESTAMP``.

Checked with Airflow 3.3.2.

``TIMESTAMP`` is timezone-aware, with microseconds on MySQL. Airflow chooses it for the configured database
when it is first read: here that is when a migration imports it, not when this module is imported.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "TIMESTAMP":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from airflow.migrations import db_types

    return db_types.TIMESTAMP
