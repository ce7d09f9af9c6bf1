# SPDX-License-Identifier: Apache-2.0
"""Lists restricted to Dags: the same pages on all databases, and few blocks read for Dags without actions."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert, text

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.dag_ids import dag_ids_with_actions
from airflow_asyncaction.store.database import Database as Store
from airflow_asyncaction.store.filtering import Filter
from airflow_asyncaction.store.listing import list_actions
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.store.reaping import Reaper
from tests.integration.databases import Database
from tests.integration.query_costs import blocks_read, fill_statement, statements
from tests.shared import SharedServices

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAGS = ["Dag", "dag", "dag.a", "dag_a", "dag_b", "dag é"]
TYPES = ["copy", "load"]
RUNS = ["run_1", "run_2"]
ROWS = 300
MANY_DAGS = [f"gone_{n}" for n in range(20)]


def _row(seconds: int, chance: random.Random) -> dict[str, Any]:
    ms = int((NOW + timedelta(seconds=seconds)).timestamp() * 1000)
    return {
        "id": str(UUID(int=ms << 80 | 7 << 76 | chance.getrandbits(62))),
        "dag_id": chance.choice(DAGS),
        "type": chance.choice(TYPES),
        "state": chance.choice(list(State)).value,
        "run_id": chance.choice(RUNS),
        "task_id": "task",
        "map_index": chance.randrange(-1, 2),
        "runner": "local",
        "attempt": 1,
        "registration_digest": "x",
        "secret": "x",
        "accept_v1": True,
        "arguments": "{}",
        "completion": "exit",
        "require_report": False,
        "max_log_lines": 10,
        "fenced": False,
        "log_lines": 0,
        "log_lines_dropped": 0,
        "report_count": 0,
        "refused_count": 0,
        "created_at": NOW,
        "updated_at": NOW,
    }


@dataclass(frozen=True)
class Twins:
    """The same random actions in PostgreSQL, in SQLite and in memory."""

    stores: Sequence[Store]
    rows: Sequence[dict[str, Any]]


@pytest.fixture(scope="module")
def twins(shared: SharedServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    chance = random.Random(16)  # noqa: S311 - no secret
    rows = [_row(n, chance) for n in range(ROWS)]
    path: Path = tmp_path_factory.mktemp("lists") / "airflow.db"
    engines = [
        create_engine(url) for url in (shared.migrated_postgres("lists"), shared.migrated_sqlite(path))
    ]
    for engine in engines:
        with engine.begin() as connection:
            connection.execute(insert(action_table), rows)
    yield Twins([Store(engine) for engine in engines], rows)
    for engine in engines:
        engine.dispose()


_moments = st.none() | st.integers(-1, ROWS + 1).map(lambda n: NOW + timedelta(seconds=n))
_filters = st.builds(
    Filter,
    type=st.none() | st.sampled_from([*TYPES, "gone"]),
    states=st.sets(st.sampled_from(State)),
    dag_id=st.none() | st.sampled_from(DAGS),
    run_id=st.none() | st.sampled_from(RUNS),
    map_index=st.none() | st.integers(-1, 2),
    since=_moments,
    until=_moments,
)
_dag_ids = st.none() | st.sets(st.sampled_from([*DAGS, *MANY_DAGS]))


@given(wanted=_filters, dag_ids=_dag_ids, limit=st.integers(20, 90))
@example(wanted=Filter(), dag_ids={*DAGS}, limit=7)
@example(wanted=Filter(), dag_ids={*DAGS, *MANY_DAGS}, limit=7)
@example(wanted=Filter(states={*State} - {State.ERROR}), dag_ids={*DAGS}, limit=7)
@example(wanted=Filter(type="load"), dag_ids={*DAGS, *MANY_DAGS}, limit=7)
@example(wanted=Filter(since=NOW, until=NOW + timedelta(seconds=99)), dag_ids={*DAGS[:4]}, limit=3)
def test_pages_are_the_same_on_all_databases(
    twins: Twins, wanted: Filter, dag_ids: Collection[str] | None, limit: int
) -> None:
    expected = sorted((row["id"] for row in twins.rows if _matches(row, wanted, dag_ids)), reverse=True)
    for store in twins.stores:
        pages, before = [], None
        while True:
            page = list_actions(store, wanted, dag_ids=dag_ids, limit=limit, before=before)
            pages.append([action.id for action in page.actions])
            before = page.next
            if before is None:
                break
        assert pages == [expected[n : n + limit] for n in range(0, max(1, len(expected)), limit)]


def _matches(row: dict[str, Any], wanted: Filter, dag_ids: Collection[str] | None) -> bool:
    created_at = NOW + timedelta(milliseconds=(UUID(row["id"]).int >> 80) - NOW.timestamp() * 1000)
    return (
        (dag_ids is None or row["dag_id"] in dag_ids)
        and (not wanted.states or row["state"] in wanted.states)
        and all(
            getattr(wanted, name) in (None, row[name]) for name in ("type", "dag_id", "run_id", "map_index")
        )
        and (wanted.since is None or created_at >= wanted.since)
        and (wanted.until is None or created_at < wanted.until)
    )


COUNT = 50_000
PAGE = 50


@pytest.fixture(scope="module", params=[2, 500])
def running(shared: SharedServices, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Return a database of many running actions of 2 or 500 Dags.

    According to the statistics, each of 2 Dags is found soon in any order, and of 500 Dags, those without
    actions may have some.
    """
    database = Database("postgresql", shared.migrated_postgres(f"running_{request.param}"))
    with database.in_use():
        with database.engine.begin() as connection:
            connection.execute(_FILL, {"dags": request.param})
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (FREEZE, ANALYZE) async_action"))
        yield database


_FILL = fill_statement(
    COUNT,
    type_="'etl'",
    dag_id="'dag_' || n % :dags",
    state="CASE WHEN n % 3 > 0 THEN 'RUNNING' ELSE 'SUCCESS' END",
    awaited="CASE WHEN n % 3 > 0 THEN true END",
)


def most_blocks(ranges: int) -> int:
    """Return how many blocks a page may read.

    A range costs a way down an index of at most four levels, a neighbor and the visibility map. Each action
    may be in a range of its own, which is read again, and the actions themselves are read by id.
    """
    return 6 * ranges + 16 * (PAGE + 1)


@pytest.mark.parametrize(
    ("wanted", "dag_ids", "count"),
    [
        (Filter(), ["gone_0", "gone_1"], 0),
        (Filter(), [f"gone_{n}" for n in range(25)], 0),
        (Filter(), [f"gone_{n}" for n in range(26)], 0),
        (Filter(), [f"gone_{n}" for n in range(1000)], 0),
        (Filter(), ["dag_0", *(f"gone_{n}" for n in range(25))], PAGE),
        (Filter(), [f"dag_{n}" for n in range(200)], PAGE),
        (Filter(states=[State.ERROR]), ["dag_0", "dag_1"], 0),
        (Filter(states=[State.RUNNING]), ["dag_0", "dag_1"], PAGE),
        (Filter(until=datetime(2020, 1, 1, tzinfo=UTC)), ["dag_0", "dag_1"], 0),
        (Filter(since=datetime(2030, 1, 1, tzinfo=UTC)), ["dag_0", "dag_1"], 0),
    ],
    ids=lambda value: f"{len(value)}" if isinstance(value, list) else str(value),
)
def test_a_page_of_several_dags_reads_each_range_once(
    running: Database, wanted: Filter, dag_ids: list[str], count: int
) -> None:
    with statements(running) as sent:
        page = list_actions(running.store, wanted, dag_ids=dag_ids, limit=PAGE)
    assert len(page.actions) == count
    assert len(sent) <= 3
    with running.engine.connect() as connection:
        blocks = sum(blocks_read(connection, *query) for query in sent)
    assert blocks <= most_blocks(len(dag_ids) * len(wanted.states or State))


def test_a_page_of_dags_with_many_recent_actions_probes_no_ranges(running: Database) -> None:
    dag_ids = [f"dag_{n}" for n in range(400)]
    with statements(running) as sent:
        page = list_actions(running.store, Filter(), dag_ids=dag_ids, limit=PAGE)
    assert len(page.actions) == PAGE
    with running.engine.connect() as connection:
        blocks = sum(blocks_read(connection, *query) for query in sent)
    assert blocks <= most_blocks(0)


def test_a_scan_for_unwatched_actions_reads_its_batch_alone(running: Database) -> None:
    batch = 100
    reaper = Reaper(
        Actions(running.store, replay_window=timedelta(minutes=10)), grace=timedelta(hours=1), batch=batch
    )
    with statements(running) as sent:
        reaper.scan(NOW, clock_seconds=0)
    with running.engine.connect() as connection:
        blocks = sum(blocks_read(connection, *query) for query in sent)
    assert blocks <= 2 * batch


def test_the_next_page_starts_after_the_last_action(running: Database) -> None:
    dag_ids = ["dag_0", "dag_1", "gone"]
    first = list_actions(running.store, Filter(), dag_ids=dag_ids, limit=PAGE)
    with statements(running) as sent:
        second = list_actions(running.store, Filter(), dag_ids=dag_ids, limit=PAGE, before=first.next)
    numbers = [int(action.id[-12:], 16) for action in (*first.actions, *second.actions)]
    dags = len(dag_ids_with_actions(running.store))
    assert numbers == [n for n in range(COUNT, 0, -1) if n % dags < 2][: 2 * PAGE]
    with running.engine.connect() as connection:
        blocks = sum(blocks_read(connection, *query) for query in sent)
    assert blocks <= most_blocks(len(dag_ids) * len(State))
