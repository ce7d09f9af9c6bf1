# SPDX-License-Identifier: Apache-2.0
"""Pools of runners: created once by concurrent processes, then updated from the configuration."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
from airflow.models.pool import Pool
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from airflow_asyncaction.store.pools import ensure_pools
from tests.integration.databases import Database

pytestmark = pytest.mark.integration


def pools_of(engine: Engine, name: str) -> list[tuple[int, bool]]:
    with Session(engine) as session:
        pools = session.scalars(select(Pool).where(Pool.pool == name))
        return [(pool.slots, pool.include_deferred) for pool in pools]


@pytest.fixture
def name() -> str:
    return f"asyncaction_{secrets.token_hex(4)}"


def test_a_pool_is_created_and_follows_the_configuration(database: Database, name: str) -> None:
    ensure_pools(database.engine, {name: 3})
    assert pools_of(database.engine, name) == [(3, True)]
    ensure_pools(database.engine, {name: 5, f"{name}_2": 1})
    assert pools_of(database.engine, name) == [(5, True)]
    assert pools_of(database.engine, f"{name}_2") == [(1, True)]


def test_other_pools_are_not_changed(database: Database, name: str) -> None:
    ensure_pools(database.engine, {name: 3})
    ensure_pools(database.engine, {})
    assert pools_of(database.engine, name) == [(3, True)]


def test_a_pool_is_changed_to_count_deferred_tasks(database: Database, name: str) -> None:
    with Session(database.engine) as session:
        session.add(Pool(pool=name, slots=9, description="by hand", include_deferred=False))
        session.commit()
    ensure_pools(database.engine, {name: 2})
    assert pools_of(database.engine, name) == [(2, True)]


def test_concurrent_processes_create_one_pool(database: Database, name: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = [threads.submit(ensure_pools, database.engine, {name: 4}) for _ in range(8)]
        for each in made:
            each.result()
    assert pools_of(database.engine, name) == [(4, True)]
