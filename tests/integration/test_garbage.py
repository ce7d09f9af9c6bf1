# SPDX-License-Identifier: Apache-2.0
"""Garbage collection deletes content that no action uses, and nothing else."""

from __future__ import annotations

import json
import math
import os
import secrets
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, update

from airflow_asyncaction.cli.files import gc
from airflow_asyncaction.files.garbage import Collected, collect
from airflow_asyncaction.services import Services, open_services
from airflow_asyncaction.store.models import action_table, content_table, file_table
from tests.integration.databases import Database
from tests.integration.file_servers import Folder, served_files
from tests.integration.file_transfers import announce, download, upload
from tests.integration.running_tasks import running_task
from tests.integration.signed_jobs import HookClient, NewJob, SignedJob, registered

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)
NOTHING = Collected()


@pytest.fixture
def services(folder: Folder, database: Database) -> Services:  # noqa: ARG001 - Airflow uses it
    return open_services(folder.options())


@pytest.fixture
def hook(services: Services) -> Iterator[str]:
    with served_files("mounted", services) as hook:
        yield hook


Collect = Callable[..., Collected]


@pytest.fixture
def collect_later(services: Services) -> Collect:
    """Collect garbage as if that much time had passed. The minimum age is one day.

    Counts are of this test alone: what others have left in the database is collected, or not counted.
    """

    def collected(by: timedelta, *, dry_run: bool) -> Collected:
        now = datetime.now(UTC) + by
        return collect(services.database, services.stores, older_than=DAY, now=now, dry_run=dry_run)

    before = collected(3 * DAY, dry_run=False).unconfigured

    def later(by: timedelta = timedelta(0), *, dry_run: bool = False) -> Collected:
        found = collected(by, dry_run=dry_run)
        return replace(found, unconfigured=found.unconfigured - before)

    return later


def forget_action(database: Database, job: SignedJob) -> None:
    with database.engine.begin() as connection:
        connection.execute(delete(action_table).where(action_table.c.id == job.info.job_id))


def make_old(folder: Folder) -> None:
    """Set the age of all files in a folder to two days."""
    two_days_ago = (datetime.now(UTC) - 2 * DAY).timestamp()
    for path in folder.root.rglob("*"):
        os.utime(path, (two_days_ago, two_days_ago))


def test_what_an_action_has_is_kept(job: SignedJob, collect_later: Collect) -> None:
    content = secrets.token_bytes(100)
    upload(job, "model", content)
    collect_later(30 * DAY)
    assert download(job, "model").content == content


def test_a_content_that_no_action_has_is_removed(
    new_job: NewJob, database: Database, folder: Folder, collect_later: Collect
) -> None:
    first, second, content = new_job(), new_job(), secrets.token_bytes(100)
    upload(first, "model", content)
    upload(second, "copy", content)
    forget_action(database, first)
    collected = collect_later(2 * DAY)
    assert (collected.files, collected.contents) == (1, 0)
    assert download(second, "copy").content == content
    forget_action(database, second)
    collected = collect_later(2 * DAY)
    assert (collected.files, collected.contents, collected.size_bytes) == (1, 1, 100)
    assert folder.names() == set()
    assert folder.content_rows(database.engine) == []


def test_what_is_younger_is_left_alone(
    job: SignedJob, database: Database, folder: Folder, collect_later: Collect
) -> None:
    upload(job, "model", secrets.token_bytes(100))
    announce(job, "model", secrets.token_bytes(100))
    (folder.root / "incoming" / "unfinished").write_bytes(b"x")
    forget_action(database, job)
    collected = collect_later()
    assert (collected.contents, collected.remains) == (0, 0)
    assert len(folder.names()) == 2


def test_a_file_that_never_came_is_forgotten(
    job: SignedJob, database: Database, collect_later: Collect
) -> None:
    announce(job, "model", secrets.token_bytes(100))
    assert collect_later(2 * DAY).files == 1
    with database.engine.connect() as connection:
        of_job = file_table.select().where(file_table.c.action_id == job.info.job_id)
        assert connection.execute(of_job).all() == []


def test_remains_of_crashes_are_removed_and_strangers_are_not(
    job: SignedJob, folder: Folder, collect_later: Collect
) -> None:
    content = secrets.token_bytes(100)
    upload(job, "model", content)
    kept = folder.names()
    (folder.root / "incoming" / "01a20d90-0000-7000-8000-000000000000").write_bytes(b"half")
    without_row = folder.root / "contents" / "ff" / "01a20d90-0000-7000-8000-0000000000ff"
    without_row.parent.mkdir(parents=True, exist_ok=True)
    without_row.write_bytes(b"whole")
    stranger = folder.root / "contents" / "ff" / "notes.txt"
    stranger.write_text("not ours")
    make_old(folder)
    assert collect_later().remains == 2
    assert folder.names() == {*kept, "contents/ff/notes.txt"}
    assert download(job, "model").content == content


def test_a_dry_run_counts_and_changes_nothing(
    new_job: NewJob, database: Database, folder: Folder, collect_later: Collect
) -> None:
    gone, job = new_job(), new_job()
    upload(gone, "model", secrets.token_bytes(100))
    announce(job, "late", secrets.token_bytes(100))
    with database.engine.begin() as connection:
        connection.execute(delete(file_table).where(file_table.c.action_id == gone.info.job_id))
    (folder.root / "incoming" / "unfinished").write_bytes(b"x")
    make_old(folder)
    before = folder.names()
    expected = Collected(files=1, contents=1, size_bytes=100, remains=1)
    assert collect_later(2 * DAY, dry_run=True) == expected
    assert folder.names() == before
    assert collect_later(2 * DAY) == expected
    assert collect_later(2 * DAY) == NOTHING


def test_contents_in_a_store_that_is_not_configured_are_left_alone(
    job: SignedJob, database: Database, folder: Folder, collect_later: Collect
) -> None:
    upload(job, "model", secrets.token_bytes(100))
    forget_action(database, job)
    moved = update(content_table).where(content_table.c.store == folder.store).values(store="gone")
    with database.engine.begin() as connection:
        connection.execute(moved)
    try:
        collected = collect_later(2 * DAY)
        assert (collected.contents, collected.unconfigured) == (0, 1)
        assert len(folder.content_rows(database.engine)) == 0
    finally:
        with database.engine.begin() as connection:
            connection.execute(delete(content_table).where(content_table.c.store == "gone"))


def test_a_row_without_a_content_is_reported_and_removed(
    job: SignedJob, database: Database, folder: Folder, collect_later: Collect
) -> None:
    upload(job, "model", secrets.token_bytes(100))
    (path,) = folder.contents()
    path.unlink()
    located = job.send("GET", f"/download/default/{job.info.job_id}/model/0")
    url = located.fields["Location"]
    assert job.client.send("GET", url[len(job.client.hook) :]).error == (404, "content_lost")
    forget_action(database, job)
    assert collect_later(2 * DAY).contents == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("command", [("asyncaction", "files", "gc"), ("db", "clean")])
def test_airflows_commands_collect_garbage(
    database: Database, folder: Folder, services: Services, command: tuple[str, ...]
) -> None:
    with served_files("alone", services) as hook, HookClient(hook) as client:
        job = registered(running_task(database.engine), client)
        upload(job, "model", secrets.token_bytes(100))
    forget_action(database, job)
    of_folder = update(content_table).where(content_table.c.store == folder.store)
    with database.engine.begin() as connection:
        connection.execute(of_folder.values(created_at=datetime(2020, 1, 1, tzinfo=UTC)))
    stores = json.dumps({folder.store: folder.root.as_uri()})
    options = ("--tables", "async_action", "--clean-before-timestamp", "2020-01-01", "-y")
    done = database.airflow(
        *command,
        *(options if command == ("db", "clean") else ()),
        environ={"AIRFLOW__ASYNCACTION__FILE_STORES": stores},
    )
    assert "Removed 1 stored objects (100 B in total)" in done.stdout
    assert folder.names() == set()


@pytest.mark.parametrize("hours", [-1.0, math.nan])
def test_nonsense_is_no_age(hours: float) -> None:
    with pytest.raises(SystemExit, match="--older-than must be a number of hours"):
        gc(Namespace(older_than=hours, dry_run=False))


@pytest.mark.usefixtures("database")
def test_a_dry_run_of_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    gc(Namespace(older_than=24.0, dry_run=True))
    assert capsys.readouterr().out.startswith("Would remove 0 stored objects")
