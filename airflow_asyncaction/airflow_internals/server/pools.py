# SPDX-License-Identifier: Apache-2.0
"""Pools: creates and resizes Airflow's pools.

Uses: ``airflow.models.pool.Pool.create_or_update_pool``.

Checked with Airflow 3.3.2.
"""

from __future__ import annotations

from airflow.models.pool import Pool
from sqlalchemy import Engine
from sqlalchemy.orm import Session


def create_or_resize(engine: Engine, name: str, slots: int, description: str) -> None:
    """Create a pool, or change its number of slots. Deferred tasks count, too (``include_deferred``).

    :raises sqlalchemy.exc.IntegrityError: another process has created it at the same time
    """
    with Session(engine) as session:
        Pool.create_or_update_pool(name, slots, description, include_deferred=True, session=session)
        session.commit()
