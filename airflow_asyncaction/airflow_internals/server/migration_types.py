# SPDX-License-Identifier: Apache-2.0
"""Migration types: the column types of Airflow's own migrations.

Uses: ``airflow.migrations.db_types.TIMESTAMP``.

Checked with Airflow 3.3.2.

``TIMESTAMP`` is timezone-aware, with microseconds on MySQL. Airflow chooses it for the configured database on
first access, so this module defers the access until a migration imports the type.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "TIMESTAMP":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from airflow.migrations import db_types

    return db_types.TIMESTAMP
