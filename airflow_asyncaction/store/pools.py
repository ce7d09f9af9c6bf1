# SPDX-License-Identifier: Apache-2.0
"""Airflow's pools, which bound how many actions of a runner run at a time."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from airflow_asyncaction.airflow_internals.server import pools

_DESCRIPTION = "Made by airflow-asyncaction: concurrency_limit in [asyncaction] runners"


def ensure_pools(engine: Engine, slots: Mapping[str, int]) -> None:
    """Make pools, or give them so many slots. Deferred tasks count: their jobs run.

    Processes that do it at the same time do not get in each other's way.

    :param slots: by the pool's name
    """
    for name, count in slots.items():
        try:
            pools.create_or_resize(engine, name, count, _DESCRIPTION)
        except IntegrityError:  # another process has made it meanwhile
            pools.create_or_resize(engine, name, count, _DESCRIPTION)
