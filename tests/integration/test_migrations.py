# SPDX-License-Identifier: Apache-2.0
"""Migrations and models result in the same tables, and can be downgraded and upgraded again."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from airflow import settings as airflow_settings
from airflow.cli import cli_parser
from airflow.migrations import db_types
from airflow.utils.session import create_session
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import String, Table, Uuid, column, create_mock_engine, insert, inspect, select, table, text
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import ColumnCollectionConstraint

from airflow_asyncaction.protocol.actions import Action, Completion, State
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.store.db_manager import REVISION_HEADS, AsyncActionDBManager
from airflow_asyncaction.store.models import action_table, metadata
from tests.integration.databases import Database, sqlite_in
from tests.shared import WORKER

pytestmark = pytest.mark.integration

TABLES = {"async_action", "async_action_content", "async_action_file", "async_action_report"}
VERSION_TABLE = AsyncActionDBManager.version_table_name
MYSQL_INDEX_BYTES = 3072
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD_ACTION = {
    "type": "t",
    "runner": "local",
    "attempt": 1,
    "dag_id": "d",
    "run_id": "r",
    "task_id": "t",
    "map_index": -1,
    "registration": "x",
    "secret": "x",
    "accept_v1": True,
    "arguments": "{}",
    "require_report": False,
    "log_limit": 10,
    "log_lines": 0,
    "log_lines_dropped": 0,
    "report_count": 0,
    "refused_count": 0,
    "created_at": NOW,
    "updated_at": NOW,
}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        with sqlite_in(tmp_path).in_use() as database:
            yield database
        return
    server = request.getfixturevalue("postgres_server")
    name = f"empty_{WORKER}"
    with Database("postgresql", server.create(name)).in_use() as database:
        yield database
    server.drop(name)


@contextmanager
def manager_of_tables() -> Iterator[AsyncActionDBManager]:
    with create_session() as session:
        yield AsyncActionDBManager(session)


def schema(database: Database) -> dict[str, Any]:
    """Return all that the database tells about our tables."""
    inspector = inspect(database.engine)
    return {
        name: {
            "columns": sorted(  # no statement depends on their order
                (column["name"], str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(name)
            ),
            "key": inspector.get_pk_constraint(name),
            "unique": sorted(inspector.get_unique_constraints(name), key=str),
            "indexes": sorted(map(_index, inspector.get_indexes(name)), key=str),
            "foreign": inspector.get_foreign_keys(name),
            "checks": inspector.get_check_constraints(name),
        }
        for name in inspector.get_table_names()
        if name in TABLES
    }


def _index(found: Any) -> dict[str, Any]:
    options = {name: str(value) for name, value in found.get("dialect_options", {}).items()}
    return {**found, "dialect_options": options}


def revision(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.scalars(text(f"SELECT version_num FROM {VERSION_TABLE}")))  # noqa: S608


def run_cli(*arguments: str) -> None:
    """Run ``airflow asyncaction db ...`` in this process."""
    args = cli_parser.get_parser().parse_args(["asyncaction", "db", *arguments])
    args.func(args)


def test_migrations_result_in_the_models(empty: Database) -> None:
    with manager_of_tables() as manager:
        manager.initdb()
    from_models = schema(empty)
    assert set(from_models) == TABLES
    assert revision(empty) == list(REVISION_HEADS.values())[-1:]
    with manager_of_tables() as manager, empty.engine.begin() as connection:
        manager.drop_tables(connection)
    assert schema(empty) == {}
    with manager_of_tables() as manager:
        manager.initdb(use_migration_files=True)
    assert schema(empty) == from_models
    assert revision(empty) == list(REVISION_HEADS.values())[-1:]


def test_alembic_finds_nothing_to_migrate(empty: Database) -> None:
    with manager_of_tables() as manager:
        manager.initdb(use_migration_files=True)
    options = {"compare_type": True, "compare_server_default": True, "version_table": VERSION_TABLE}
    with empty.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_the_latest_revision_belongs_to_the_latest_release() -> None:
    with manager_of_tables() as manager:
        assert manager.get_script_object().get_heads() == list(REVISION_HEADS.values())[-1:]


def test_the_tables_can_be_downgraded_and_upgraded_again(
    empty: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cli("upgrade")
    before = schema(empty)
    run_cli("check")
    assert f"revision {revision(empty)[0]}" in capsys.readouterr().out
    run_cli("downgrade", "--to-revision", "base", "-y")
    assert schema(empty) == {}
    with pytest.raises(SystemExit, match="airflow db migrate"):
        run_cli("check")
    run_cli("upgrade")
    assert schema(empty) == before
    run_cli("check")


def test_a_downgrade_asks_for_confirmation(
    empty: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cli("upgrade")
    with pytest.raises(SystemExit, match="--to-revision is required"):
        run_cli("downgrade", "-y")
    for answer in ("\n", ""):  # no terminal
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        with pytest.raises(SystemExit, match="Nothing was changed"):
            run_cli("downgrade", "--to-revision", "base")
    asked = capsys.readouterr().out
    assert "to base?" in asked
    password = empty.engine.url.password
    assert password is None or password not in asked
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    run_cli("downgrade", "--to-revision", "base")
    assert schema(empty) == {}


def test_a_lost_version_table_is_restored(empty: Database) -> None:
    run_cli("upgrade")
    before = schema(empty)
    with empty.engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
        connection.execute(
            text(
                "INSERT INTO async_action_report"
                " (action_id, scheme, body_sha256, kind, log_count, received_at)"
                " VALUES ('6f1d9b8e3c1a4c579a550d2f6f2f9c11', 'v2', '', 'x', 0, '2026-01-01 00:00:00')"
            )
        )
    run_cli("upgrade")
    run_cli("check")
    assert schema(empty) == before
    with empty.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM async_action_report")) == 1


STATES = [state.value for state in State]


@pytest.mark.parametrize("broke_off", [False, True], ids=["once", "again"])
def test_an_upgrade_marks_the_actions_that_are_not_done(empty: Database, *, broke_off: bool) -> None:
    run_cli("upgrade")
    run_cli("downgrade", "--to-revision", "0004", "-y")
    typed = [column(each.name, each.type) for each in action_table.c]
    old_table = table("async_action", column("registration"), column("log_limit"), *typed)
    kinds = list(product(STATES, [False, True], Completion, [None, '{"code":0}']))
    with empty.engine.begin() as connection:
        for state, fenced, completion, exit_ in kinds:
            values = {"state": state, "fenced": fenced, "completion": completion.value, "exit": exit_}
            connection.execute(insert(old_table).values(**OLD_ACTION, **values, id=str(uuid4())))
        if broke_off:  # as on MySQL, which commits each change of a table
            connection.execute(text("ALTER TABLE async_action ADD COLUMN awaited BOOLEAN"))
    run_cli("upgrade")
    columns = action_table.c
    query = select(columns.state, columns.fenced, columns.completion, columns.exit, columns.awaited)
    with empty.engine.connect() as connection:
        found = connection.execute(query).all()
    assert len(found) == len(kinds)
    for row in found:
        action = Action(
            id=JobId("j"),
            type="t",
            attempt=1,
            created_at=NOW,
            state=State(row.state),
            fenced=row.fenced,
            completion=Completion(row.completion),
            exit=row.exit,
        )
        is_awaited = not action.is_done and not action.state.is_waiting
        assert row.awaited is (True if is_awaited else None), row


def test_renamed_columns_keep_their_values(empty: Database) -> None:
    run_cli("upgrade")
    renamed = {
        "registration_digest": "r",
        "idempotency_digest": "i",
        "request_digest": "q",
        "max_log_lines": 9,
    }
    values = {**OLD_ACTION, "state": "RUNNING", "fenced": False, "completion": "EXIT", **renamed}
    del values["registration"], values["log_limit"]
    with empty.engine.begin() as connection:
        connection.execute(insert(action_table).values(**values, id=str(uuid4())))
    run_cli("downgrade", "--to-revision", "0009", "-y")
    with empty.engine.connect() as connection:
        query = text("SELECT registration, idempotency, request, log_limit FROM async_action")
        assert tuple(connection.execute(query).one()) == ("r", "i", "q", 9)
    run_cli("upgrade")
    with empty.engine.connect() as connection:
        kept = connection.execute(select(*(action_table.c[name] for name in renamed))).one()
    assert dict(kept._mapping) == renamed


@pytest.fixture
def mysql_migration(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the migrations' SQL for MySQL."""
    monkeypatch.setattr(airflow_settings, "SQL_ALCHEMY_CONN", "mysql://airflow@localhost/airflow")
    with manager_of_tables() as manager:
        config = manager.get_alembic_config()
    config.output_buffer = written = io.StringIO()
    vars(db_types).pop("TIMESTAMP", None)  # kept from the first database that a process has
    command.upgrade(config, "head", sql=True)
    vars(db_types).pop("TIMESTAMP", None)
    return written.getvalue()


def lines_of(sql: str) -> list[str]:
    return [" ".join(line.split()).strip(" ,") for line in re.split(r"[\n;]", sql) if line.strip()]


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=str)
def test_mysql_gets_the_same_tables(table: Table, mysql_migration: str) -> None:
    dialect = mysql.dialect()
    migration = lines_of(mysql_migration)
    statements: list[Any] = []
    table.create(create_mock_engine("mysql://", lambda statement, *_: statements.append(statement)))
    assert statements
    for statement in statements:
        for line in lines_of(str(statement.compile(dialect=dialect))):
            alteration = f"ALTER TABLE {table.name} (ADD COLUMN|CHANGE [a-z_]+) {re.escape(line)}( NULL)?"
            assert line in migration or any(re.fullmatch(alteration, each) for each in migration)


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=str)
def test_mysql_can_index_it(table: Table) -> None:
    def size_bytes(type_: Any) -> int:
        if isinstance(type_, Uuid):
            return 32 * 4
        if isinstance(type_, String):
            assert type_.length is not None, "TEXT cannot be indexed"
            return type_.length * 4 + 2
        return 8

    keys = [index.columns for index in table.indexes]
    keys += [key.columns for key in table.constraints if isinstance(key, ColumnCollectionConstraint)]
    for columns in keys:
        assert sum(size_bytes(column.type) for column in columns) <= MYSQL_INDEX_BYTES
