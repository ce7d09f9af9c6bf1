# SPDX-License-Identifier: Apache-2.0
"""Pools: limits how many actions of a runner run at a time, with Airflow's pools."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from airflow_asyncaction.airflow_internals.server import pools

_DESCRIPTION = "Created by airflow-asyncaction: concurrency_limit in [asyncaction] runners"


def ensure_pools(engine: Engine, slots: Mapping[str, int]) -> None:
    """Create pools, or update their slots. Deferred tasks occupy slots, since their jobs run.

    Several processes may do this concurrently.

    :param slots: slots by pool name
    """
    for name, count in slots.items():
        try:
            pools.create_or_resize(engine, name, count, _DESCRIPTION)
        except IntegrityError:  # another process has created the pool in the meantime
            pools.create_or_resize(engine, name, count, _DESCRIPTION)
