# SPDX-License-Identifier: Apache-2.0
"""Pools of runners: made once by all that start together, and as the configuration says after that."""

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


def test_a_pool_is_made_and_follows_the_configuration(database: Database, name: str) -> None:
    ensure_pools(database.engine, {name: 3})
    assert pools_of(database.engine, name) == [(3, True)]
    ensure_pools(database.engine, {name: 5, f"{name}_2": 1})
    assert pools_of(database.engine, name) == [(5, True)]
    assert pools_of(database.engine, f"{name}_2") == [(1, True)]


def test_what_is_not_configured_is_left_alone(database: Database, name: str) -> None:
    ensure_pools(database.engine, {name: 3})
    ensure_pools(database.engine, {})
    assert pools_of(database.engine, name) == [(3, True)]


def test_a_pool_whose_deferred_tasks_did_not_count_is_put_right(database: Database, name: str) -> None:
    with Session(database.engine) as session:
        session.add(Pool(pool=name, slots=9, description="by hand", include_deferred=False))
        session.commit()
    ensure_pools(database.engine, {name: 2})
    assert pools_of(database.engine, name) == [(2, True)]


def test_many_that_start_at_once_make_one(database: Database, name: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = [threads.submit(ensure_pools, database.engine, {name: 4}) for _ in range(8)]
        for each in made:
            each.result()
    assert pools_of(database.engine, name) == [(4, True)]
