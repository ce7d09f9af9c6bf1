# SPDX-License-Identifier: Apache-2.0
"""``dag.test()`` and ``airflow tasks test``: no API server runs, and all works as if one did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

DAGS = Path(__file__).with_name("dags")

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Home:
    """An AIRFLOW_HOME whose Dags are ours, on SQLite."""

    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        return subprocess.run(
            [sys.executable, *command],
            env={
                **environ,
                "AIRFLOW_HOME": str(self.folder),
                "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def rows(self, query: str, dag_id: str) -> list[Any]:
        engine = create_engine(f"sqlite:///{self.folder / 'airflow.db'}")
        try:
            with engine.connect() as connection:
                return list(connection.execute(text(query), {"dag_id": dag_id}))
        finally:
            engine.dispose()


@dataclass(frozen=True)
class Run:
    """What a run of a Dag has left."""

    log: str
    states: dict[str, str]
    ends: dict[str, tuple[str, str | None]]
    results: dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    migrated = home.run("-m", "airflow", "db", "migrate")
    assert migrated.returncode == 0, migrated.stderr
    return home


def run_of(home: Home, dag_id: str) -> Run:
    """Run a Dag file as a program."""
    done = home.run(str(DAGS / f"{dag_id}.py"))
    states = home.rows("SELECT task_id, map_index, state FROM task_instance WHERE dag_id = :dag_id", dag_id)
    ends = home.rows(
        "SELECT task_id, map_index, state, error_name FROM async_action WHERE dag_id = :dag_id", dag_id
    )
    xcoms = home.rows("SELECT task_id, map_index, key, value FROM xcom WHERE dag_id = :dag_id", dag_id)
    return Run(
        log=done.stdout + done.stderr,
        states={named(task_id, index): state for task_id, index, state in states},
        ends={named(task_id, index): (state, error) for task_id, index, state, error in ends},
        results={
            named(task_id, index): json.loads(str(value))  # SQLite makes numbers of numbers
            for task_id, index, key, value in xcoms
            if key == "return_value"
        },
    )


def named(task_id: str, map_index: int) -> str:
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


@pytest.fixture(scope="module")
def local(home: Home) -> Run:
    return run_of(home, "local_actions")


@pytest.fixture(scope="module")
def callables(home: Home) -> Run:
    return run_of(home, "callables")


def test_command_env_cwd_and_arguments_are_templates(local: Run) -> None:
    told = local.results["templated"]
    assert told["argv"] == ["templated", "notes.sh", "hello.sh"]
    assert told["greeting"] == "hello you"
    assert told["cwd"] == str(DAGS / "jobs")
    assert told["arguments"] == {"nested": [{"word": "hello"}], "script": "run.sh", "zero": 0}


def test_one_word_that_ends_in_sh_is_a_template_file(local: Run) -> None:
    assert local.states["template_file"] == "success"
    assert "hello from a template file" in local.log


def test_a_string_is_for_the_shell(local: Run) -> None:
    assert local.results["shell_string"]["argv"] == ["a", "b c", "3.sh"]


def test_the_job_has_nothing_of_airflows_configuration(local: Run) -> None:
    assert local.results["templated"]["airflow"] == []


def test_small_arguments_are_in_the_environment_and_large_ones_are_asked_for(local: Run) -> None:
    assert local.results["templated"]["in_environment"] is True
    large = local.results["large_arguments"]
    assert large["in_environment"] is False
    assert large["arguments"] == {"text": "x" * 40_000}


def test_work_that_was_submitted_ends_with_its_report(local: Run) -> None:
    assert local.ends["submits"] == ("SUCCESS", None)
    assert local.results["submits"] == "later"


@pytest.mark.parametrize(
    ("task_id", "state", "error_name"),
    [
        ("fails", "ERROR", "ExitCode"),
        ("no_report", "ERROR", "NoReport"),
        ("not_found", "ERROR", "CommandNotFound"),
        ("no_folder", "ERROR", "BadWorkingDirectory"),
        ("silent", "TIMEOUT", "HeartbeatTimeout"),
    ],
)
def test_other_ends_fail_the_task(local: Run, task_id: str, state: str, error_name: str) -> None:
    assert local.states[task_id] == "failed"
    assert local.ends[task_id] == (state, error_name)


@pytest.mark.parametrize(
    ("task_id", "said"),
    [
        ("not_json", "arguments cannot be given to a job: they are not JSON"),
        ("wrong_env", "env must map strings to strings: 'N' is of type int"),
    ],
)
def test_what_no_job_can_be_given_fails_before_anything_is_registered(
    local: Run, task_id: str, said: str
) -> None:
    assert local.states[task_id] == "failed"
    assert task_id not in local.ends
    assert said in local.log


def test_output_comes_line_by_line(local: Run) -> None:
    for line in ("café", "bar 3", "no newline at the end"):
        assert f"] {line} " in local.log
    assert "progress 50 % half way" in local.log
    tellers = [task_id for task_id, told in local.results.items() if isinstance(told, dict)]
    assert local.log.count("] printed by tell.py") == len(tellers)
    assert local.log.count("] reported by tell.py") == len(tellers)


def test_mapped_and_decorated_commands(local: Run) -> None:
    assert [local.results[f"mapped[{n}]"]["arguments"] for n in (0, 1)] == [{"n": 1}, {"n": 2}]
    assert local.results["decorated"]["argv"] == ["by name", "hello"]
    assert local.results["downstream"] == ["by name", "hello"]


def test_a_callable_gets_its_arguments_context_and_job(callables: Run) -> None:
    assert callables.results["adds"] == {
        "sum": 3,
        "word": "hello",
        "task": "adds",
        "given": {"from": "hello"},
    }
    assert callables.results["takes_context"] == "takes_context"
    assert callables.log.count("] by job.log") == 1
    assert callables.log.count("] by logging") == 1


def test_what_a_callable_returns_is_the_result(callables: Run) -> None:
    assert [callables.results[f"gives[{n}]"] for n in range(4)] == [0, False, "", []]
    assert callables.results["awaits"] == "awaited"
    assert callables.states["not_json"] == "success"
    assert callables.results["several"] == {"one": 1, "two": 2}


@pytest.mark.parametrize(
    ("task_id", "task_state", "end"),
    [
        ("raises", "failed", ("ERROR", "LookupError")),
        ("skips", "skipped", ("ERROR", "AirflowSkipException")),
        ("too_slow", "failed", ("TIMEOUT", "ExecutionTimeout")),
    ],
)
def test_what_a_callable_raises_ends_task_and_action(
    callables: Run, task_id: str, task_state: str, end: tuple[str, str]
) -> None:
    assert callables.states[task_id] == task_state
    assert callables.ends[task_id] == end


def test_tasks_test_runs_one_task(home: Home, local: Run) -> None:
    assert local.states["template_file"] == "success"  # the Dag is known by now
    done = home.run("-m", "airflow", "tasks", "test", "local_actions", "template_file")
    assert done.returncode == 0, done.stderr
    assert "hello from a template file" in done.stdout + done.stderr


def test_without_our_tables_it_says_what_to_do_at_once(home: Home, local: Run, callables: Run) -> None:
    del local, callables  # they need the tables
    downgraded = home.run("-m", "airflow", "asyncaction", "db", "downgrade", "--to-revision", "base", "-y")
    assert downgraded.returncode == 0, downgraded.stderr
    done = home.run("-m", "airflow", "tasks", "test", "local_actions", "template_file")
    assert "run 'airflow db migrate'" in done.stdout + done.stderr
    assert "trying again" not in done.stdout + done.stderr
