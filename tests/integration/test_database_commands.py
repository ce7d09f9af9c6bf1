# SPDX-License-Identifier: Apache-2.0
"""Airflow's database commands, run on a database that contains actions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.models.crypto import get_fernet
from cryptography.fernet import Fernet
from sqlalchemy import MetaData, create_engine, delete, event, select, update

from airflow_asyncaction.exceptions import SecretUnreadable
from airflow_asyncaction.protocol.lifecycle import Launched
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.store.models import action_table, report_table
from airflow_asyncaction.store.secret import decrypt, encrypt, rotate_all
from tests.integration.databases import Database
from tests.integration.signed_jobs import NewJob, SignedJob

pytestmark = pytest.mark.integration

FERNET_KEY = "AIRFLOW__CORE__FERNET_KEY"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


@pytest.fixture
def only_own_actions(database: Database) -> None:
    """Delete the actions of other tests, some of which have secrets that nobody can read."""
    with database.engine.begin() as connection:
        connection.execute(delete(action_table))


def set_times(database: Database, job: SignedJob, *, action: datetime, reports: datetime) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            update(action_table).where(action_table.c.id == job.info.job_id).values(updated_at=action)
        )
        connection.execute(
            update(report_table)
            .where(report_table.c.action_id == job.info.job_id)
            .values(received_at=reports)
        )


def counts(database: Database, job: SignedJob) -> tuple[int, int]:
    """Return how many rows there are of the action, and of its reports."""
    with database.engine.connect() as connection:
        actions = connection.execute(select(action_table.c.id).where(action_table.c.id == job.info.job_id))
        reports = connection.execute(
            select(report_table.c.id).where(report_table.c.action_id == job.info.job_id)
        )
        return len(actions.all()), len(reports.all())


def test_db_clean_deletes_old_actions_with_their_reports(database: Database, new_job: NewJob) -> None:
    old, old_with_late_report, long_lived, new = (new_job() for _ in range(4))
    for job in (old, old_with_late_report, long_lived, new):
        job.report(status="RUNNING", logs=["line"])
        job.report(status="SUCCESS")
    now = datetime.now(UTC)
    set_times(database, old, action=LONG_AGO, reports=LONG_AGO)
    set_times(database, old_with_late_report, action=LONG_AGO, reports=now)
    set_times(database, long_lived, action=now, reports=LONG_AGO)
    before = (LONG_AGO + timedelta(days=365)).isoformat()
    tables = ("--tables", "async_action,async_action_report")
    command = ("db", "clean", *tables, "--clean-before-timestamp", before)
    previewed = found_rows(database.airflow(*command, "--dry-run").stdout)
    assert counts(database, old) == (1, 2)
    done = database.airflow(*command, "--skip-archive", "-y")
    assert found_rows(done.stdout) == previewed == {"async_action": 2, "async_action_report": 2}
    assert counts(database, old) == (0, 0)
    assert counts(database, old_with_late_report)[0] == 0
    assert counts(database, long_lived) == (1, 2)
    assert counts(database, new) == (1, 2)
    assert long_lived.report(logs=["x"]).status == 200
    assert old.report().error == (401, "bad_signature")


def test_a_dry_run_of_db_clean_keeps_to_the_dags(database: Database, new_job: NewJob) -> None:
    job = new_job()
    job.report(status="SUCCESS")
    set_times(database, job, action=LONG_AGO, reports=LONG_AGO)
    before = (LONG_AGO + timedelta(days=365)).isoformat()
    command = ("db", "clean", "--tables", "async_action_report", "--clean-before-timestamp", before)
    for options, count in ((("--dag-ids", "x"), 0), (("--exclude-dag-ids", "x"), 1)):
        found = found_rows(database.airflow(*command, "--dry-run", *options).stdout)
        assert found == {"async_action": count, "async_action_report": count}, options
        assert counts(database, job) == (1, 1)


def found_rows(output: str) -> dict[str, int]:
    """Return how many rows of each table ``airflow db clean`` has found."""
    found = re.findall(r"Checking table (\S+)\s+Found (\d+) rows", output)
    return {name: int(count) for name, count in found}


@contextmanager
def fernet_keys(keys: str) -> Iterator[None]:
    """Let this process have other keys."""
    before = os.environ[FERNET_KEY]
    os.environ[FERNET_KEY] = keys
    forget_keys()
    try:
        yield
    finally:
        os.environ[FERNET_KEY] = before
        forget_keys()


def forget_keys() -> None:
    get_fernet.cache_clear()
    decrypt.cache_clear()


@pytest.mark.usefixtures("only_own_actions")
def test_keys_are_rotated(database: Database, new_job: NewJob) -> None:
    given = {"secrets": ("a password",), "arguments": JsonText('{"x": "a password"}')}
    jobs = [new_job(**given) for _ in range(3)]
    old, new = os.environ[FERNET_KEY], Fernet.generate_key().decode()
    with fernet_keys(f"{new},{old}"):
        assert jobs[0].report().status == 200
    done = database.airflow("asyncaction", "db", "rotate-keys", environ={FERNET_KEY: f"{new},{old}"})
    try:
        with fernet_keys(new):
            assert [job.report().status for job in jobs] == [200, 200, 200]
            assert [job.send("GET", "/job").fields["arguments"] for job in jobs] == [{"x": "a password"}] * 3
        with database.engine.connect() as connection:
            encrypted = ("secret", "task_key", "masks", "sealed_arguments")
            rows = list(connection.execute(select(*(action_table.c[name] for name in encrypted))))
        assert f"the secrets of {len(rows)} actions" in done.stdout
        stored = [secret for row in rows for secret in row if secret is not None]
        assert len(stored) >= len(rows) + 3 * len(jobs)
        assert all(Fernet(new).decrypt(secret.encode()) for secret in stored)
    finally:
        with fernet_keys(f"{old},{new}"):
            rotate_all(database.engine)
    assert jobs[0].report().status == 200


@pytest.mark.usefixtures("only_own_actions")
def test_a_key_that_is_written_during_the_rotation_is_kept(database: Database, job: SignedJob) -> None:
    """A task registers a queued action after the rotation has read its row, and before it writes it."""
    with database.engine.begin() as connection:
        ours = action_table.c.id == job.info.job_id
        connection.execute(update(action_table).where(ours).values(task_key=None))
    key = encrypt("k" * 40)
    is_written = False

    def write(*args: Any) -> None:
        nonlocal is_written
        if not is_written and args[2].startswith("UPDATE"):  # the rotation's first one, with what it has read
            is_written = True
            with other.begin() as connection:
                connection.execute(update(action_table).where(ours).values(task_key=key))

    other = create_engine(database.engine.url)
    event.listen(database.engine, "before_cursor_execute", write)
    try:
        rotate_all(database.engine)
    finally:
        event.remove(database.engine, "before_cursor_execute", write)
        other.dispose()
    with database.engine.connect() as connection:
        stored = connection.execute(select(action_table.c.task_key).where(ours)).scalar_one()
    assert (is_written, decrypt(stored)) == (True, "k" * 40)


@pytest.mark.usefixtures("only_own_actions")
def test_an_unreadable_secret_does_not_stop_the_rotation(database: Database, new_job: NewJob) -> None:
    lost, job = new_job(), new_job()
    unreadable = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    ours = action_table.c.id == lost.info.job_id
    with database.engine.begin() as connection:
        connection.execute(update(action_table).where(ours).values(secret=unreadable))
    old, new = os.environ[FERNET_KEY], Fernet.generate_key().decode()
    try:
        with fernet_keys(f"{new},{old}"), pytest.raises(SecretUnreadable, match="secrets of 1 actions are"):
            rotate_all(database.engine)
        with fernet_keys(new):
            assert job.report().status == 200
    finally:
        with database.engine.begin() as connection:
            connection.execute(delete(action_table).where(ours))
        with fernet_keys(f"{old},{new}"):
            rotate_all(database.engine)


def test_rotating_without_the_old_key_changes_nothing(database: Database, job: SignedJob) -> None:
    with fernet_keys(Fernet.generate_key().decode()), pytest.raises(SecretUnreadable):
        rotate_all(database.engine)
    other = {FERNET_KEY: Fernet.generate_key().decode()}
    done = database.airflow("asyncaction", "db", "rotate-keys", environ=other, fails=True)
    assert "Traceback" not in done.stderr
    assert job.report().status == 200


def test_a_server_without_the_key_answers_with_a_retryable_error(
    new_job: NewJob, caplog: pytest.LogCaptureFixture
) -> None:
    job = new_job()
    with fernet_keys(Fernet.generate_key().decode()):
        answer = job.report()
    assert answer.error == (503, "unavailable")
    assert answer.headers["retry-after"] == "2"
    assert "[core] fernet_key" in caplog.text
    assert job.report().status == 200


def all_values(database: Database) -> Iterator[tuple[str, Any]]:
    """Yield each value in the database, with the table it is in."""
    everything = MetaData()
    everything.reflect(database.engine)
    with database.engine.connect() as connection:
        for table in everything.sorted_tables:
            for row in connection.execute(select(table)):
                for value in row:
                    yield table.name, value


@pytest.mark.parametrize("whose", ["job", "task"])
def test_no_secret_is_in_the_database_in_plain_text(database: Database, job: SignedJob, whose: str) -> None:
    secret = (job.info if whose == "job" else job.task).secret_key
    job.send_v1("POST", "/status", {"status": "RUNNING", "logs": ["line"], "agent": {"host": "h"}})
    job.report(logs=[f"JOB_SECRET_KEY={secret}"], statusDetails=secret, agent={"env": secret})
    job.send("POST", "/status", b"no json: " + secret.encode())
    job.send_message(Launched({"environ": secret}))
    job.report(status="SUCCESS", results={secret: 1}, errorMessage=secret)
    job.report(status="ERROR")
    job.send("POST", "/status", b"no json")
    values = list(all_values(database))
    assert {name for name, _ in values} >= {"async_action", "async_action_report", "dag_run"}
    assert [name for name, value in values if secret in str(value)] == []
