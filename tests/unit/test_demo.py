# SPDX-License-Identifier: Apache-2.0
"""Failures of the demo: one line for each, naming the log to read."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import demo, postgres
from dev.airflow_api import AirflowApi, AirflowApiError
from dev.demo import PARTS, Demo, Part, Result, main
from dev.deployment import Deployment, DeploymentError
from dev.postgres import PostgresError
from dev.screen import Screen
from dev.watch import Outcome
from tests.unit.task_server import Answer, TaskServer

LOG = Path("/logs/attempt=1.log")


def outcome(state: str = "success", *lines: str) -> Outcome:
    return Outcome("dag.task", state, result="", seconds=1.0, tries=1, lines=lines, log=LOG)


def test_an_api_server_that_does_not_answer_is_a_line_for_each_part(tmp_path: Path) -> None:
    never_started = Deployment(tmp_path, dags=[])

    results = Demo(never_started, Screen(io.StringIO())).run(PARTS)

    errors = [error for result in results for error in result.errors()]
    assert len(errors) == len(PARTS)
    for part, error in zip(PARTS, errors, strict=True):
        assert error.startswith(f"{part.dag_id}: ")
        assert "the API server did not respond (ConnectionError)" in error
        assert error.endswith(f"; see {tmp_path / 'dag-processor.log'}")
        assert "\n" not in error


def test_a_task_that_ends_otherwise_is_a_line_with_its_log() -> None:
    result = Result(part=Part(dag_id="dag", about=""), outcomes=[outcome(), outcome("failed")])

    assert result.errors() == [f"dag.task ended as failed instead of success; see {LOG}"]


def test_a_missing_log_line_is_a_line() -> None:
    part = Part(dag_id="dag", about="", line="the disk is full")

    assert Result(part=part, outcomes=[outcome("success", "the disk is full")]).errors() == []
    assert Result(part=part, outcomes=[outcome()]).errors() == [
        f"no task of dag logged 'the disk is full'; see {LOG}"
    ]


# --- Airflow or PostgreSQL do not start, or do not stop

INITDB = """#!/bin/sh
mkdir "$2"
"""
PG_CTL = """#!/bin/sh
touch "$3/postmaster.pid"
[ "$1" = start ] || { echo waiting; echo "server does not shut down"; echo; exit 1; } >&2
"""
FAILS = """#!/bin/sh
echo "creating directory"
echo "no space left" >&2
exit 1
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of programs that replace those of PostgreSQL."""
    folder = tmp_path / "package" / "install" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(postgres, "find_binaries", lambda: folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the demo's folder; the demo may be run in this process."""
    monkeypatch.setattr(demo, "HOME", tmp_path / ".demo")
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path / ".demo"
    signal.signal(signal.SIGTERM, before)


def write(folder: Path, **programs: str) -> None:
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def test_a_database_server_that_does_not_start_is_a_line_with_its_log(
    tools: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tools, initdb=FAILS)
    assert main([]) == 1
    *_, line = capsys.readouterr().out.splitlines()
    reason = "PostgreSQL did not start: initdb exited with code 1: no space left"
    assert line == f"✘ {reason}; see {home / 'postgres.log'}"
    assert "creating directory" in (home / "postgres.log").read_text()


def test_no_user_to_run_the_database_server_is_a_line(
    tools: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tools, initdb=FAILS)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(postgres, "_UNPRIVILEGED", ("no-such-user",))
    assert main([]) == 1
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith("✘ PostgreSQL did not start: PostgreSQL cannot run as root, and no user")
    assert line.endswith(f"; see {home / 'postgres.log'}")


def test_no_database_server_is_a_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none() -> Path:
        raise PostgresError("no PostgreSQL server: install it")

    monkeypatch.setattr(postgres, "find_binaries", find_none)
    assert main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "✘ no PostgreSQL server: install it"
    assert not home.exists()


def test_a_database_server_that_does_not_stop_is_reported_and_leaves_no_data(tools: Path, home: Path) -> None:
    write(tools, initdb=INITDB, pg_ctl=PG_CTL)
    deployment = Deployment(home, dags=[])
    home.mkdir()
    server = deployment._own_server
    assert server is not None
    server.__enter__()
    data = server._folder
    assert data is not None
    assert data.exists()
    with pytest.raises(DeploymentError) as caught:
        deployment.stop()
    reason = "PostgreSQL did not stop: pg_ctl exited with code 1: server does not shut down"
    assert (caught.value.reason, caught.value.log) == (reason, home / "postgres.log")
    assert "waiting" in caught.value.log.read_text()
    assert not data.exists()


def test_a_migration_that_does_not_end_is_a_line_with_its_log(home: Path) -> None:
    url = "postgresql+psycopg2://a:b@127.0.0.1:1/c"
    deployment = Deployment(home, dags=[], database_url=url, migrate_timeout_seconds=0.05)
    home.mkdir()
    with pytest.raises(DeploymentError) as caught:
        deployment._migrate()
    assert caught.value.reason == "airflow db migrate did not end within 0.05 s"
    assert caught.value.log.read_bytes() == b""


# --- a Dag file is broken


def parsed(*dag_ids: str) -> Answer:
    """Return the response of each Airflow route while one Dag file is broken."""
    broken = {"filename": "broken.py", "stack_trace": "Traceback\nValueError: no\n"}
    dags = [{"dag_id": dag_id} for dag_id in dag_ids]
    return Answer(fields={"access_token": "t", "dags": dags, "import_errors": [broken]})


def test_a_broken_dag_file_does_not_end_the_wait_for_the_others() -> None:
    with TaskServer([parsed(), parsed(), parsed("slow")]) as server:
        api = AirflowApi(server.url, user="u", password="p")
        api.wait_for_dags({"slow"})
        with pytest.raises(AirflowApiError, match=r"broken.py:\nTraceback\nValueError: no"):
            api.wait_for_dags({"slow", "broken"}, timeout_seconds=0.1)
