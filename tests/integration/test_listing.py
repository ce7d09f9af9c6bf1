# SPDX-License-Identifier: Apache-2.0
"""Lists of actions: filters, pages and permissions, at a cost independent of the table size."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text
from uuid6 import uuid7

from airflow_asyncaction.exceptions import ActionNotFound
from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.dag_ids import dag_ids_with_actions
from airflow_asyncaction.store.filtering import Filter
from airflow_asyncaction.store.listing import Page, find, list_actions
from airflow_asyncaction.store.models import action_table
from airflow_asyncaction.store.reaping import Reaper
from tests.integration.databases import Database
from tests.integration.query_costs import blocks_read, fill_statement, statements
from tests.scale import NIGHTLY
from tests.shared import SharedServices

NOW = datetime.now(UTC)
COUNT = 1_000_000 if NIGHTLY else 100_000
"""Actions in a large table: either way, reading all of them costs far more than ``MOST_BLOCKS``."""

AWAITED = 1_000
PAGE = 50
MOST_BLOCKS = 8 * (PAGE + 1)
"""Blocks of 8 KiB that a page may read: two queries go down an index of at most four levels for each row."""


def insert_action(database: Database, **given: Any) -> JobId:
    columns = {
        "id": str(uuid7()),
        "type": "etl.load",
        "runner": "local",
        "attempt": 1,
        "dag_id": "listed",
        "run_id": "run",
        "task_id": "task",
        "map_index": -1,
        "registration_digest": "x",
        "secret": "x",
        "accept_v1": True,
        "arguments": "{}",
        "completion": "exit",
        "require_report": False,
        "max_log_lines": 10,
        "state": "SUCCESS",
        "fenced": False,
        "log_lines": 0,
        "log_lines_dropped": 0,
        "report_count": 0,
        "refused_count": 0,
        "created_at": NOW,
        "updated_at": NOW,
        **given,
    }
    with database.engine.begin() as connection:
        connection.execute(insert(action_table), columns)
    return JobId(str(columns["id"]))


def ids(page: Page) -> list[JobId]:
    return [action.id for action in page.actions]


def test_pages_are_ordered_newest_first(database: Database, actions: Actions) -> None:
    run_id = secrets.token_hex(4)
    made = [insert_action(database, run_id=run_id) for _ in range(5)][::-1]
    wanted = Filter(run_id=run_id)
    first = list_actions(actions.database, wanted, limit=2)
    second = list_actions(actions.database, wanted, limit=2, before=first.next)
    third = list_actions(actions.database, wanted, limit=2, before=second.next)
    assert [ids(first), ids(second), ids(third)] == [made[:2], made[2:4], made[4:]]
    assert third.next is None


def test_a_list_is_filtered_by_all_conditions(database: Database, actions: Actions) -> None:
    run_id = secrets.token_hex(4)
    plain = insert_action(database, run_id=run_id)
    other = {
        "type": insert_action(database, run_id=run_id, type="other"),
        "dag": insert_action(database, run_id=run_id, dag_id="other"),
        "task": insert_action(database, run_id=run_id, task_id="other"),
        "mapped": insert_action(database, run_id=run_id, map_index=3),
        "error": insert_action(database, run_id=run_id, state="ERROR"),
    }
    found = {
        "type": Filter(run_id=run_id, type="other"),
        "dag": Filter(run_id=run_id, dag_id="other"),
        "task": Filter(run_id=run_id, task_id="other"),
        "mapped": Filter(run_id=run_id, map_index=3),
        "error": Filter(run_id=run_id, states=[State.ERROR]),
    }
    for name, wanted in found.items():
        assert ids(list_actions(actions.database, wanted, limit=9)) == [other[name]], name
    both = Filter(
        run_id=run_id, states=[State.SUCCESS, State.ERROR], type="etl.load", task_id="task", map_index=-1
    )
    assert set(ids(list_actions(actions.database, both, limit=9))) == {plain, other["error"], other["dag"]}


def test_a_list_is_filtered_by_time(database: Database, actions: Actions) -> None:
    run_id = secrets.token_hex(4)
    action = insert_action(database, run_id=run_id)
    now = datetime.now(UTC)
    for wanted, count in (
        (Filter(run_id=run_id, since=now - timedelta(minutes=1)), 1),
        (Filter(run_id=run_id, since=now + timedelta(minutes=1)), 0),
        (Filter(run_id=run_id, until=now + timedelta(minutes=1)), 1),
        (Filter(run_id=run_id, until=now - timedelta(minutes=1)), 0),
    ):
        assert ids(list_actions(actions.database, wanted, limit=9)) == [action][:count]


@pytest.mark.parametrize("dags", [1, 2, 150])
def test_a_list_is_restricted_to_visible_dags(database: Database, actions: Actions, dags: int) -> None:
    mark = secrets.token_hex(4)
    mine = [insert_action(database, dag_id=f"{mark}_{n % dags}") for n in range(6)][::-1]
    insert_action(database, dag_id=f"{mark}_theirs")
    visible = {f"{mark}_{n}" for n in range(dags)}
    assert ids(list_actions(actions.database, Filter(), dag_ids=visible, limit=9)) == mine
    assert ids(list_actions(actions.database, Filter(), dag_ids=visible, limit=4)) == mine[:4]
    theirs = Filter(dag_id=f"{mark}_theirs")
    assert ids(list_actions(actions.database, theirs, dag_ids=visible, limit=9)) == []
    assert ids(list_actions(actions.database, Filter(), dag_ids=set(), limit=9)) == []


def test_secrets_are_not_even_read(database: Database, actions: Actions) -> None:
    hidden = {"secret": "x", "registration_digest": "x", "task_key": "x", "sealed_arguments": "x"}
    action_id = insert_action(database, **hidden)
    with statements(database) as sent:
        find(actions.database, action_id)
        list_actions(actions.database, Filter(), limit=1)
    assert len(sent) == 2
    assert not any(column in statement for statement, _ in sent for column in hidden)
    assert ["async_action.masks" in statement for statement, _ in sent] == [True, False]  # only for results


@pytest.mark.parametrize("uuid", ["", "x", "%", "0" * 36, "01890000-0000-7000-8000-000000000000"])
def test_an_unknown_action_is_not_found(actions: Actions, uuid: str) -> None:
    with pytest.raises(ActionNotFound):
        find(actions.database, uuid)


@pytest.fixture(scope="module")
def many(shared: SharedServices) -> Iterator[Database]:
    """Return a database of many actions of 40 Dags: a hundred failed, two are of a rare type."""
    database = Database("postgresql", shared.migrated_postgres("many"))
    with database.in_use():
        with database.engine.begin() as connection:
            connection.execute(_FILL)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # Statistics of all rows instead of a sample: all runs have the same plans.
            connection.execute(text("SET default_statistics_target = 10000"))
            connection.execute(text("VACUUM (FREEZE, ANALYZE) async_action"))
            blocks = connection.scalar(text("SELECT relpages FROM pg_class WHERE relname = 'async_action'"))
        assert blocks is not None
        assert blocks > 10 * MOST_BLOCKS
        yield database


_FILL = fill_statement(
    COUNT,
    type_=f"CASE WHEN n IN (1, {COUNT // 2}) THEN 'rare' ELSE 'etl.' || n % 7 END",
    dag_id="'dag_' || n % 40",
    state=f"CASE WHEN n % {COUNT // 100} = 0 THEN 'ERROR' ELSE 'SUCCESS' END",
    awaited=f"CASE WHEN n % {COUNT // AWAITED} = 0 THEN true END",
)


def _id_of(n: int) -> JobId:
    hexes = f"{1790000000000 + n:012x}70008{n:015x}"
    return JobId("-".join((hexes[:8], hexes[8:12], hexes[12:16], hexes[16:20], hexes[20:])))


@pytest.mark.parametrize(
    ("wanted", "more", "count"),
    [
        (Filter(), {}, PAGE),
        (Filter(), {"before": _id_of(1000)}, PAGE),
        (Filter(type="etl.3"), {"before": _id_of(COUNT // 2)}, PAGE),
        (Filter(type="rare"), {}, 2),
        (Filter(type="never"), {}, 0),
        (Filter(states=[State.ERROR]), {}, PAGE),
        (Filter(states=[State.RUNNING, State.QUEUED]), {}, 0),
        (Filter(states=[State.RUNNING, State.ERROR]), {}, PAGE),
        (Filter(type="etl.3", states=[State.RUNNING, State.ERROR]), {}, 14),
        (Filter(dag_id="dag_3", states=[State.ERROR]), {}, 0),
        (Filter(dag_id="dag_0", states=[State.ERROR, State.RUNNING]), {}, PAGE),
        (Filter(dag_id="dag_3"), {"before": _id_of(900)}, 23),
        (Filter(run_id="run_77", dag_id="dag_37"), {}, 1),
        (Filter(), {"dag_ids": ["dag_1"]}, PAGE),
        (Filter(), {"dag_ids": [f"dag_{n}" for n in range(12)]}, PAGE),
        (Filter(), {"dag_ids": ["gone"]}, 0),
        (Filter(since=datetime(2030, 1, 1, tzinfo=UTC)), {}, 0),
    ],
    ids=str,
)
def test_a_page_of_many_actions_reads_few_blocks(
    many: Database, wanted: Filter, more: dict[str, Any], count: int
) -> None:
    store = many.store
    with statements(many) as sent:
        page = list_actions(store, wanted, limit=PAGE, **more)
    assert len(page.actions) == count
    with many.engine.connect() as connection:
        blocks = sum(blocks_read(connection, *query) for query in sent)
    assert blocks <= MOST_BLOCKS * max(1, len(more.get("dag_ids", ())) // 2)


def test_a_scan_for_unwatched_actions_reads_few_blocks(many: Database) -> None:
    actions = Actions(many.store, replay_window=timedelta(minutes=10))
    batch = 100
    reaper = Reaper(actions, grace=timedelta(hours=1), batch=batch)
    for look in range(AWAITED // batch + 2):
        with statements(many) as sent:
            reaper.scan(NOW, clock_seconds=look)
        with many.engine.connect() as connection:
            blocks = sum(blocks_read(connection, *query) for query in sent)
        assert blocks <= 2 * batch, look


def test_finding_the_dags_of_many_actions_reads_few_blocks(many: Database) -> None:
    store = many.store
    with statements(many) as sent:
        found = dag_ids_with_actions(store)
    assert found == sorted(f"dag_{n}" for n in range(40))
    with many.engine.connect() as connection:
        blocks = sum(blocks_read(connection, *query) for query in sent)
    assert blocks <= 10 * len(found)


def test_the_dags_that_have_actions_are_found(database: Database, actions: Actions) -> None:
    before = dag_ids_with_actions(actions.database)
    ids = [f"dag é {secrets.token_hex(4)}", f"Dag.{secrets.token_hex(4)}"]
    for dag_id in (*ids, *ids):
        insert_action(database, dag_id=dag_id)
    found = dag_ids_with_actions(actions.database)
    assert set(found) == {*before, *ids}
    assert len(found) == len(set(found))
