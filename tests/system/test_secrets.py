# SPDX-License-Identifier: Apache-2.0
"""Secrets: after all other tests, no job's secret is readable anywhere, while a planted one is found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from sqlalchemy import text

from tests.airflow_release import RENDERED_TABLE, XCOM_TABLE
from tests.system.scene import Scene, StoredAction

pytestmark = pytest.mark.system


def log_files(scene: Scene) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file that Airflow or a job has written; the logs among them."""
    for folder in (scene.deployment.home, scene.folder):
        for path in folder.rglob("*"):
            if path.is_file():
                yield str(path.relative_to(folder)), path.read_bytes()


def tables(scene: Scene) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each table: all columns of all rows as text, bytes in hex."""
    with scene.engine.connect() as connection:
        names = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        for name in names:
            rows = connection.scalars(text(f'SELECT "{name}"::text FROM "{name}"'))  # noqa: S608
            yield name, "\n".join(rows).encode()


def places_of(secrets: Iterable[str], contents: Iterable[tuple[str, bytes]]) -> set[str]:
    """Return where a secret is, as it is or in hex."""
    needles = [needle for each in secrets for needle in (each.encode(), each.encode().hex().encode())]
    return {name for name, content in contents if any(needle in content for needle in needles)}


@pytest.fixture(scope="module")
def secrets(scene: Scene) -> list[str]:
    secrets = scene.secrets()
    assert len(secrets) > 20
    return [secret for each in secrets.values() for secret in (each.job, each.task)]


@pytest.fixture
def spread(scene: Scene) -> StoredAction:
    """Return the action of the job that has spread the canary."""
    scene.state_of("results", "spread")
    return scene.action("results", "spread")


def test_a_secret_that_a_job_prints_is_masked(scene: Scene) -> None:
    assert scene.state_of("callables", "shows_secret") == "failed"
    assert "its secret is ***" in scene.events("callables", "shows_secret")
    assert (scene.action("callables", "shows_secret").error_message or "").endswith("its secret is ***")


def test_what_airflow_masks_is_masked_wherever_an_action_is_shown(scene: Scene, password: str) -> None:
    assert scene.state_of("callables", "shows_password") == "failed"
    assert scene.state_of("callables", "logs_password") == "success"
    given = 'given: {"dsn": "db://***@host"}'
    assert given in scene.events("callables", "shows_password")
    shown = scene.action("callables", "shows_password")
    assert (shown.error_message or "").endswith(given)
    logged = scene.action("callables", "logs_password")
    assert (logged.status_details, logged.results) == ('{"progress":50,"message":"with ***"}', '"***"')
    assert scene.api.xcoms(scene.key("callables", "logs_password"))["return_value"] == password
    unescaped = [password.rpartition("/")[2]]
    assert places_of(unescaped, tables(scene)) == {XCOM_TABLE}
    task_logs = [(name, content) for name, content in log_files(scene) if "task_id=logs_password" in name]
    assert task_logs
    assert places_of(unescaped, task_logs) == set()


@pytest.mark.usefixtures("spread")
def test_no_secret_is_in_any_file(scene: Scene, secrets: list[str], canary: str) -> None:
    found = places_of([canary], log_files(scene))
    assert any("task_id=spread" in name for name in found), "the search finds nothing"
    assert places_of(secrets, log_files(scene)) == set()


@pytest.mark.usefixtures("spread")
def test_no_secret_is_in_the_database(scene: Scene, secrets: list[str], canary: str) -> None:
    kinds = {XCOM_TABLE, RENDERED_TABLE, "async_action", "async_action_report", "dag_run"}
    assert places_of([canary], tables(scene)) >= kinds
    assert places_of(secrets, tables(scene)) == set()


@pytest.mark.usefixtures("spread")
def test_no_secret_was_on_a_command_line(scene: Scene, secrets: list[str], canary: str) -> None:
    lines = [("a command line", line) for line in scene.command_lines.seen.copy()]
    assert places_of([canary], lines)
    assert places_of(secrets, lines) == set()
