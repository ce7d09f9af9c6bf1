# SPDX-License-Identifier: Apache-2.0
"""Pools: limit how many actions of a runner run at a time, with Airflow's pools."""

from __future__ import annotations

from collections.abc import Mapping

from airflow.models.pool import Pool
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

_DESCRIPTION = "Created by airflow-asyncaction: concurrency_limit in [asyncaction] runners"


def ensure_pools(engine: Engine, slots: Mapping[str, int]) -> None:
    """Create pools, or update their slots. Deferred tasks occupy slots, since their jobs run.

    Several processes may do this concurrently.

    :param slots: slots by pool name
    """
    for name, count in slots.items():
        try:
            _ensure(engine, name, count)
        except IntegrityError:  # another process has created it
            _ensure(engine, name, count)


def _ensure(engine: Engine, name: str, slots: int) -> None:
    with Session(engine) as session:
        Pool.create_or_update_pool(name, slots, _DESCRIPTION, include_deferred=True, session=session)
        session.commit()
