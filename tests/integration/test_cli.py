# SPDX-License-Identifier: Apache-2.0
"""``airflow asyncaction list|show|logs|stop|launch`` on both databases, as Airflow's CLI parses them."""

from __future__ import annotations

import io
import json
import secrets
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.cli import cli_parser
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.sdk import DAG, BaseOperator, Param
from airflow.utils.platform import getuser
from sqlalchemy import func, select, update

from airflow_asyncaction.protocol.lifecycle import Exit, Launched
from airflow_asyncaction.protocol.operations import TAG
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.timeline import read_reports
from tests.integration.databases import Database
from tests.integration.signed_jobs import HookClient, NewJob, SignedJob
from tests.integration.stored_dags import store_dag

pytestmark = pytest.mark.integration

NOBODY = "01a20edb-1111-7111-8111-111111111111"
HOSTILE = "[bold]not bold[/bold] \x1b[31mred\x07 \u202etxt <script>\r\nnext"


@dataclass(frozen=True)
class Done:
    """Result of a command."""

    out: str
    err: str
    said: str | int | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(database: Database, capsys: pytest.CaptureFixture[str]) -> Run:  # noqa: ARG001 - Airflow uses it
    """Return a function that runs ``airflow asyncaction ...`` in this process."""

    def run_command(*words: str) -> Done:
        args = cli_parser.get_parser().parse_args(["asyncaction", *words])
        capsys.readouterr()
        said: str | int | None = None
        try:
            args.func(args)
        except SystemExit as end:
            said = end.code
        out, err = capsys.readouterr()
        return Done(out, err, said)

    return run_command


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


@pytest.fixture
def rich_job(new_job: NewJob) -> SignedJob:
    """Return a job that has reported every kind of field."""
    job = new_job(type="etl.rich", arguments='{"days": [1, 2]}')
    job.send_message(Launched({"pid": 7}))
    job.report(
        logs=["first", {"level": "ERROR", "message": HOSTILE, "time": 1_700_000_000_123}],
        statusDetails={"progress": 40.5, "message": HOSTILE},
        agent={"host": HOSTILE},
    )
    job.report(results={"rows": 0, "text": HOSTILE}, errorMessage=HOSTILE)
    return job


def test_actions_are_listed_the_newest_first(run: Run, new_job: NewJob) -> None:
    jobs = [new_job(type="etl.listed") for _ in range(3)]
    jobs[0].send_message(Exit(code=3))
    ids = [job.info.job_id for job in reversed(jobs)]
    listed = run("list", "--type", "etl.listed", "-o", "json").json
    assert [action["uuid"] for action in listed] == ids
    assert (listed[0]["status"], listed[0]["mapIndex"], listed[0]["isDone"]) == ("STARTING", -1, False)
    failed = run("list", "--type", "etl.listed", "--status", "error", "-o", "json").json
    assert [(action["uuid"], action["errorName"]) for action in failed] == [(ids[-1], "ExitCode")]
    assert len(run("list", "--type", "etl.listed", "--limit", "2", "-o", "json").json) == 2
    of_run = run("list", "--dag-id", "dag", "--run-id", listed[1]["runId"], "-o", "json").json
    assert [action["uuid"] for action in of_run] == [ids[1]]


def test_a_list_continues_beyond_one_page(run: Run, new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_asyncaction.cli.actions._PAGE", 2)
    ids = [new_job(type="etl.pages").info.job_id for _ in range(5)]
    listed = run("list", "--type", "etl.pages", "-o", "json").json
    assert [action["uuid"] for action in listed] == ids[::-1]


def test_since_is_a_time(run: Run, new_job: NewJob) -> None:
    new_job(type="etl.since")
    soon = datetime.now(UTC) + timedelta(minutes=1)
    ago = soon - timedelta(hours=1)
    for later in (soon.isoformat(), str(int(soon.timestamp() * 1000))):
        assert run("list", "--type", "etl.since", "--since", later, "-o", "json").json == []
    for earlier in (ago.isoformat(), f"{ago:%Y-%m-%dT%H:%M}", "0"):
        assert len(run("list", "--type", "etl.since", "--since", earlier, "-o", "json").json) == 1


@pytest.mark.parametrize("output", ["table", "plain"])
def test_a_list_is_a_table(run: Run, rich_job: SignedJob, output: str) -> None:
    listed = run("list", "--type", "etl.rich", "-o", output)
    header, *rows = [line for line in listed.out.splitlines() if line.strip()]
    assert header.replace("|", " ").split()[:4] == ["uuid", "type", "status", "dag_id"]
    assert any(rich_job.info.job_id in row and "RUNNING" in row and "40.5" in row for row in rows)
    assert "No data found" in run("list", "--type", "no.such", "-o", output).out


def test_all_of_an_action_is_shown(run: Run, rich_job: SignedJob) -> None:
    uuid = rich_job.info.job_id
    shown = run("show", uuid.upper(), "-o", "json").json
    assert shown["uuid"] == uuid
    assert shown["arguments"] == {"days": [1, 2]}
    assert shown["results"] == {"rows": 0, "text": HOSTILE}
    assert shown["job"] == {"pid": 7}
    assert yaml.safe_load(run("show", uuid, "-o", "yaml").out)["results"]["text"] == HOSTILE
    assert rich_job.info.secret_key not in run("show", uuid, "-o", "plain").out


@pytest.mark.parametrize("output", ["table", "plain", "json", "yaml"])
def test_what_a_job_sends_is_shown_as_text(run: Run, rich_job: SignedJob, output: str) -> None:
    uuid = rich_job.info.job_id
    shown = [run("show", uuid, "-o", output).out, run("list", "--type", "etl.rich", "-o", output).out]
    for out in shown:
        assert not [char for char in out if not char.isprintable() and char != "\n"]
    assert "[bold]not bold[/bold]" in shown[0].replace("\n", "")


def test_logs_are_printed_line_by_line(run: Run, rich_job: SignedJob) -> None:
    first, hostile = run("logs", rich_job.info.job_id).out.splitlines()
    assert first == "- INFO    first"
    time, level, message = hostile.split(maxsplit=2)
    assert (time, level) == ("2023-11-14T22:13:20.123Z", "ERROR")
    assert message == r"[bold]not bold[/bold] \x1b[31mred\x07 \u202etxt <script>\r\nnext"


def test_dropped_lines_are_reported(run: Run, new_job: NewJob) -> None:
    job = new_job(max_log_lines=2)
    job.report(logs=["one", "two", "three"])
    assert run("logs", job.info.job_id).out.splitlines() == [
        "... 1 lines were dropped ...",
        "- INFO    two",
        "- INFO    three",
    ]


def test_logs_are_followed_until_the_end(run: Run, job: SignedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_asyncaction.cli.actions._FOLLOW_SECONDS", 0.05)
    job.report(logs=["before"])

    def go_on() -> None:
        with HookClient(job.client.hook) as client:
            same = job.on(client)
            for number in range(3):
                same.report(logs=[f"line {number}"])
            same.report(status="SUCCESS", logs=["after"])
            same.send_message(Exit(code=0))

    timer = threading.Timer(0.2, go_on)
    timer.start()
    done = run("logs", job.info.job_id, "--follow")
    timer.join()
    assert [line.split(maxsplit=2)[2] for line in done.out.splitlines()] == [
        "before",
        "line 0",
        "line 1",
        "line 2",
        "after",
    ]


@pytest.mark.parametrize("command", [("show",), ("logs",), ("stop", "-y")])
@pytest.mark.parametrize("uuid", [NOBODY, "nonsense", "\x1b[31m"])
def test_an_action_that_is_not_there_is_one_line(run: Run, command: tuple[str, ...], uuid: str) -> None:
    done = run(*command, uuid)
    assert isinstance(done.said, str)
    assert done.said.startswith("There is no action ")
    assert done.said.isprintable()
    assert done.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "--status", "DONE"), "--status must be one of SCHEDULED, "),
        (("list", "--since", "yesterday"), "--since must be "),
        (("list", "--since", "9" * 30), "--since must be "),
        (("list", "--limit", "0"), "--limit must be "),
        (("launch", "no.such"), "The operation 'no.such' does not exist"),
    ],
)
def test_what_makes_no_sense_is_one_line(run: Run, words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert str(done.said).startswith(said)


def events_of(database: Database, event: str, run_id: str) -> list[Any]:
    """Return the rows of Airflow's audit log about a Dag run."""
    events = Log.__table__.c
    with database.engine.connect() as connection:
        wanted = select(Log.__table__).where(events.event == event, events.run_id == run_id)
        return list(connection.execute(wanted.order_by(events.id)))


def test_an_action_is_stopped(run: Run, job: SignedJob, database: Database, actions: Actions) -> None:
    job.report()
    stopped = run("stop", job.info.job_id, "-y", "-o", "json").json
    assert (stopped["action"], stopped["stopReason"]) == ("STOP", "Requested")
    assert job.report().fields["action"] == "STOP"
    job.send_message(Exit(code=0))
    again = run("stop", job.info.job_id, "-y")
    assert again.said == "The action has already ended as STOPPED."
    with database.engine.connect() as connection:
        events = Log.__table__.c
        count = connection.scalar(select(func.count()).where(events.event == "cli_stop"))
    assert count
    (event,) = events_of(database, "stop_async_action", stopped["runId"])
    assert (event.owner, event.dag_id, event.task_id, event.map_index) == (getuser(), "dag", "task", -1)
    assert json.loads(event.extra) == {"uuid": job.info.job_id, "method": "CLI"}
    reports = read_reports(actions.database, job.info.job_id, 0, bodies=False)["reports"]
    assert [report["requestedBy"] for report in reports if report["kind"] == "stop"] == [getuser()]


@pytest.mark.parametrize(("answer", "is_stopped"), [("n\n", False), ("", False), ("y\n", True)])
def test_a_stop_is_confirmed(
    run: Run, job: SignedJob, monkeypatch: pytest.MonkeyPatch, answer: str, is_stopped: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    done = run("stop", job.info.job_id)
    assert f"Stop action {job.info.job_id}, test of dag" in done.out
    assert done.said == (None if is_stopped else "Nothing was changed")
    assert (job.report().fields["action"] == "STOP") is is_stopped


@pytest.fixture
def operation(database: Database) -> str:
    """Return the id of a new operation whose input is the Dag's Params."""
    dag_id = f"etl.cli.{secrets.token_hex(4)}"
    params = {
        "table": Param(type="string", minLength=1, description="Of the warehouse"),
        "days": Param(1, type="integer", minimum=1),
    }
    with DAG(dag_id, schedule=None, tags=[TAG], params=params, is_paused_upon_creation=False) as dag:
        dag.relative_fileloc = "cli.py"
        BaseOperator(task_id="load")
    store_dag(database.engine, dag)
    return dag_id


def runs_of(database: Database, dag_id: str) -> list[Any]:
    columns = DagRun.__table__.c
    with database.engine.connect() as connection:
        return list(connection.execute(select(DagRun.__table__).where(columns.dag_id == dag_id)))


def test_an_operation_is_launched(run: Run, operation: str, database: Database) -> None:
    launched = run("launch", operation, "--input", '{"table": "sales"}', "-o", "json").json
    assert (launched["status"], launched["arguments"]) == ("QUEUED", {"table": "sales"})
    assert (launched["dagId"], launched["requestedBy"]) == (operation, getuser())
    (dag_run,) = runs_of(database, operation)
    assert (dag_run.run_id, dag_run.state) == (launched["runId"], "queued")
    assert (dag_run.triggered_by.value, dag_run.triggering_user_name) == ("cli", getuser())
    assert dag_run.conf["table"] == "sales"
    (event,) = events_of(database, "trigger_dag_run", launched["runId"])
    assert (event.owner, event.dag_id, json.loads(event.extra)) == (getuser(), operation, {"method": "CLI"})
    assert run("show", launched["uuid"], "-o", "json").json["uuid"] == launched["uuid"]


def test_an_input_may_be_in_a_file_or_be_piped(
    run: Run, operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "input.json").write_text('{"table": "of a file"}')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"table": "piped"}')))
    given = (f"@{tmp_path / 'input.json'}", "@-")
    launched = [run("launch", operation, "--input", text, "-o", "json").json for text in given]
    assert [action["arguments"]["table"] for action in launched] == ["of a file", "piped"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), '$: "table" is a required property'),
        (("--input", '{"table": "t", "days": 0}'), "$.days: 0 is less than the minimum of 1"),
        (("--input", "[1]"), "--input must be a JSON object: "),
        (("--input", "{"), "--input must be a JSON object: "),
        (("--input", "@/no/such/file"), "--input '/no/such/file' cannot be read: No such file"),
        (("--input", '{"table": "t"}', "--schedule", "soon"), "--schedule must be a Unix time in ms"),
        (("--input", '{"table": "t"}', "--idempotency-key", "a b"), "--idempotency-key must be "),
    ],
)
def test_a_wrong_launch_launches_nothing(
    run: Run, operation: str, database: Database, words: tuple[str, ...], said: str
) -> None:
    done = run("launch", operation, *words)
    assert str(done.said).startswith(said)
    assert done.out == ""
    assert runs_of(database, operation) == []


def test_a_launch_may_be_for_later_and_be_stopped_before(
    run: Run, operation: str, database: Database
) -> None:
    later = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    words = ("--input", '{"table": "t"}', "--schedule", later.isoformat(), "-o", "json")
    launched = run("launch", operation, *words).json
    assert (launched["status"], launched["scheduledAt"][:19]) == ("SCHEDULED", later.isoformat()[:19])
    assert runs_of(database, operation)[0].run_after == later
    stopped = run("stop", launched["uuid"], "-y", "-o", "json").json
    assert (stopped["status"], stopped["isDone"]) == ("STOPPED", True)
    assert runs_of(database, operation)[0].state == "failed"


def test_the_same_key_is_the_same_action(run: Run, operation: str, database: Database) -> None:
    words = ("--input", '{"table": "t"}', "--idempotency-key", "once", "-o", "json")
    first, second = (run("launch", operation, *words).json for _ in range(2))
    assert first["uuid"] == second["uuid"]
    assert len(runs_of(database, operation)) == 1
    other = run("launch", operation, "--input", '{"table": "u"}', "--idempotency-key", "once")
    assert "idempotency key was used before" in str(other.said)


def test_a_paused_operation_says_so(run: Run, operation: str, database: Database) -> None:
    with database.engine.begin() as connection:
        dags = DagModel.__table__
        connection.execute(update(dags).where(dags.c.dag_id == operation).values(is_paused=True))
    done = run("launch", operation, "--input", '{"table": "t"}')
    assert f"The Dag {operation} is paused" in done.err


def test_a_run_that_airflow_refuses_ends_the_action(run: Run, operation: str, database: Database) -> None:
    with database.engine.begin() as connection:
        dags = DagModel.__table__
        changed = update(dags).where(dags.c.dag_id == operation).values(allowed_run_types=["scheduled"])
        connection.execute(changed)
    done = run("launch", operation, "--input", '{"table": "t"}')
    assert str(done.said).startswith("Airflow refused to create the Dag run: ")
    (action,) = run("list", "--dag-id", operation, "-o", "json").json
    assert (action["status"], action["errorName"]) == ("ERROR", "RunRefused")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_commands_are_airflows_own(database: Database, job: SignedJob) -> None:
    listed = database.airflow("asyncaction", "list", "--limit", "1", "-o", "json")
    assert json.loads(listed.stdout)[0]["uuid"] == job.info.job_id
    failed = database.airflow("asyncaction", "show", NOBODY, fails=True)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stdout + failed.stderr
    assert failed.stderr.strip().splitlines()[-1].startswith("There is no action ")
