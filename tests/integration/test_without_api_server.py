# SPDX-License-Identifier: Apache-2.0
"""``dag.test()``, ``airflow dags test`` and ``airflow tasks test``: work without an API server."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.integration.airflow_home import DAGS, DagRun, Home
from tests.shared import SharedServices

TABLES = ("async_action", "async_action_report")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def home(shared: SharedServices, tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    shared.migrated_sqlite(home.database)
    return home


@pytest.fixture(scope="module")
def local(home: Home) -> DagRun:
    return home.run_dag("local_actions", str(DAGS / "local_actions.py"))  # a Dag file as a program


@pytest.fixture(scope="module")
def callables(home: Home) -> DagRun:
    return home.run_dag("callables", str(DAGS / "callables.py"))


@pytest.fixture(scope="module")
def edges(home: Home) -> DagRun:
    return home.run_dag("edges", "-m", "airflow", "dags", "test", "edges")


def test_jobs_on_other_machines_have_an_address_of_their_own(home: Home) -> None:
    asked = home.run_dag("elsewhere", str(DAGS / "elsewhere.py")).result("ask")
    assert asked == dict.fromkeys(("http://127.0.0.1", "http://127.0.0.2"), "bad_signature")


def test_command_env_cwd_and_arguments_are_templates(local: DagRun) -> None:
    told = local.result("templated")
    assert told["argv"] == ["templated", "notes.sh", "hello.sh"]
    assert told["greeting"] == "hello you"
    assert told["cwd"] == str(DAGS / "jobs")
    assert told["arguments"] == {"nested": [{"word": "hello"}], "script": "run.sh", "zero": 0}


def test_one_word_that_ends_in_sh_is_a_template_file(local: DagRun) -> None:
    assert local.states["template_file"] == "success"
    assert "hello from a template file" in local.log


def test_a_string_is_for_the_shell(local: DagRun) -> None:
    assert local.result("shell_string")["argv"] == ["a", "b c", "3.sh"]


def test_the_job_has_nothing_of_airflows_configuration(local: DagRun) -> None:
    assert local.result("templated")["airflow"] == []


def test_the_job_has_what_it_reports_with(local: DagRun) -> None:
    always = {"JOB_ID", "JOB_SECRET_KEY", "JOB_HOOK", "JOB_ORCHESTRATOR", "JOB_SIGNATURE"}
    assert set(local.result("templated")["job"]) == {*always, "JOB_ARGUMENTS"}
    assert set(local.result("large_arguments")["job"]) == always


def test_the_actions_id_is_an_xcom(local: DagRun) -> None:
    with_actions = [task for task, xcoms in local.xcoms.items() if "action_id" in xcoms]
    assert sorted(with_actions) == sorted(local.actions)
    for task in with_actions:
        assert UUID(local.xcoms[task]["action_id"]) == UUID(local.actions[task][-1].id)


def test_small_arguments_are_in_the_environment_and_large_ones_are_fetched(local: DagRun) -> None:
    assert local.result("templated")["in_environment"] is True
    large = local.result("large_arguments")
    assert large["in_environment"] is False
    assert large["arguments"] == {"text": "x" * 40_000}


def test_work_that_was_submitted_ends_with_its_report(local: DagRun) -> None:
    assert local.end("submits") == ("SUCCESS", None)
    assert local.result("submits") == "later"


@pytest.mark.parametrize(
    ("task_id", "state", "error_name"),
    [
        ("fails", "ERROR", "ExitCode"),
        ("skips_not", "ERROR", "ExitCode"),
        ("no_report", "ERROR", "NoReport"),
        ("not_found", "ERROR", "CommandNotFound"),
        ("no_folder", "ERROR", "BadWorkingDirectory"),
        ("silent", "TIMEOUT", "HeartbeatTimeout"),
    ],
)
def test_other_ends_fail_the_task(local: DagRun, task_id: str, state: str, error_name: str) -> None:
    assert local.states[task_id] == "failed"
    assert local.end(task_id) == (state, error_name)


@pytest.mark.parametrize(("task_id", "code"), [("skips", 99), ("skips_wrapped", 7)])
def test_an_exit_code_may_skip_the_task_and_its_action(local: DagRun, task_id: str, code: int) -> None:
    assert local.states[task_id] == "skipped"
    assert local.end(task_id) == ("STOPPED", "Skipped")
    said = f"The job exited with code {code}, which skips the task"
    assert local.actions[task_id][0].error_message == said


@pytest.mark.parametrize(
    ("task_id", "said"),
    [
        ("not_json", "arguments must be JSON-serializable"),
        ("wrong_env", "env must map strings to strings, but N is of type int"),
    ],
)
def test_what_no_job_can_be_given_fails_before_anything_is_registered(
    local: DagRun, task_id: str, said: str
) -> None:
    assert local.states[task_id] == "failed"
    assert task_id not in local.actions
    assert said in local.log


def test_what_a_job_said_last_explains_its_exit(local: DagRun) -> None:
    assert local.actions["fails"][0].error_message == "The job exited with code 3\nso long"
    assert "airflow_asyncaction.exceptions.ExitCode: ExitCode: The job exited with code 3" in local.log


def test_output_comes_line_by_line(local: DagRun) -> None:
    for line in ("café", "bar 3", "no newline at the end"):
        assert local.said(line) == 1
    assert "progress 50%: half way" in local.log
    tellers = [task for task, lines in local.reported.items() if lines == ["reported by tell.py"]]
    assert len(tellers) == 6
    assert local.said("printed by tell.py") == local.said("reported by tell.py") == len(tellers)


def test_mapped_and_decorated_commands(local: DagRun) -> None:
    assert [local.result(f"mapped[{n}]")["arguments"] for n in (0, 1)] == [{"n": 1}, {"n": 2}]
    assert local.result("decorated")["argv"] == ["by name", "hello"]
    assert local.result("downstream") == ["by name", "hello"]


def test_a_callable_gets_its_arguments_context_and_job(callables: DagRun) -> None:
    assert callables.result("adds") == {
        "sum": 3,
        "word": "hello",
        "task": "adds",
        "given": {"from": "hello"},
    }
    assert callables.result("takes_context") == "takes_context"


def test_what_a_callable_logs_is_in_both_logs_once(callables: DagRun, edges: DagRun) -> None:
    assert callables.reported["adds"] == ["by job.log", "by logging"]
    assert callables.reported["awaits"] == ["awaited"]
    assert [callables.said(line) for line in ("by job.log", "by logging", "awaited")] == [1, 1, 1]
    assert edges.reported["logs"][:2] == ["first line", "second line"]
    third, _, rest = edges.reported["logs"][2].partition("\n")
    assert (third, rest.splitlines()[-1]) == ("third line", "LookupError: there is no table customers")
    assert [edges.said(line) for line in ("first line", "second line", "third line")] == [1, 1, 1]
    silent = [task for task in callables.actions if task not in ("adds", "awaits")]
    assert [callables.reported.get(task, []) for task in silent] == [[]] * len(silent)


def test_what_a_callable_returns_is_the_result(callables: DagRun) -> None:
    assert [callables.result(f"gives[{n}]") for n in range(4)] == [0, False, "", []]
    assert callables.result("awaits") == "awaited"
    assert callables.states["not_json"] == "success"
    odd = ['"a\\u0000b"', str(2**70)]  # neither PostgreSQL nor msgpack takes these as they are
    assert callables.result("several") == {"one": 1, "two": 2, "odd": odd}


def test_multiple_outputs_are_xcoms_of_their_own(callables: DagRun) -> None:
    assert (callables.xcoms["several"]["one"], callables.xcoms["several"]["two"]) == (1, 2)


@pytest.mark.parametrize(
    ("task_id", "task_state", "end"),
    [
        ("raises", "failed", ("ERROR", "LookupError")),
        ("skips", "skipped", ("STOPPED", "Skipped")),
        ("too_slow", "failed", ("TIMEOUT", "ExecutionTimeout")),
    ],
)
def test_what_a_callable_raises_ends_task_and_action(
    callables: DagRun, task_id: str, task_state: str, end: tuple[str, str]
) -> None:
    assert callables.states[task_id] == task_state
    assert callables.end(task_id) == end


def test_the_traceback_of_a_callable_leads_into_it(edges: DagRun) -> None:
    assert ", in look_up\n    raise LookupError" in edges.log
    assert "LookupError: there is no table orders" in edges.log


def test_mapped_words_that_end_in_sh_are_words_and_a_command_of_one_is_a_file(edges: DagRun) -> None:
    told = [edges.result(f"mapped_arguments[{n}]") for n in (0, 1)]
    assert [one["arguments"] for one in told] == [{"script": "hello.sh"}, {"script": "run.bash"}]
    assert [(one["argv"], one["greeting"]) for one in told] == [(["notes.sh"], "hello.sh")] * 2
    assert [edges.end(f"mapped_commands[{n}]") for n in range(3)] == [("SUCCESS", None)] * 3
    assert edges.said("hello from a template file") == 1
    assert edges.said("bash x.sh") == 1
    assert edges.result("mapped_commands[2]")["argv"] == ["hello.sh"]


def test_mapped_callables_get_their_share(edges: DagRun) -> None:
    assert [edges.result(f"mapped_callable[{n}]") for n in (0, 1)] == [2, 4]
    assert [edges.result(f"adds[{n}]") for n in (0, 1)] == [11, 12]


def test_outputs_of_mapped_tasks_update_their_assets(home: Home, edges: DagRun) -> None:
    assert [edges.end(f"updates[{n}]") for n in (0, 1)] == [("SUCCESS", None)] * 2
    events = home.execute(
        "SELECT name, source_map_index FROM asset_event JOIN asset ON asset.id = asset_id"
        " WHERE source_dag_id = 'edges' ORDER BY source_map_index"
    )
    assert [tuple(event) for event in events] == [("updated_by_map", 0), ("updated_by_map", 1)]


def test_an_asset_that_airflow_cannot_know_of_is_refused_before_the_job_is_launched(edges: DagRun) -> None:
    assert edges.states["updates_unknown[0]"] == "failed"
    assert "updates_unknown[0]" not in edges.actions
    assert "Pass output_assets to the decorator, not to override()" in edges.log


def test_a_folder_can_be_specified_as_a_path(edges: DagRun) -> None:
    assert edges.result("folder")["cwd"] == str(DAGS / "jobs")


def test_each_retry_is_an_action_of_its_own(edges: DagRun) -> None:
    for task, error_name in (("tries_again", "ExitCode"), ("recovers", "LookupError")):
        assert edges.states[task] == "success"
        assert [row.end for row in edges.actions[task]] == [("ERROR", error_name), ("SUCCESS", None)]
    assert edges.result("recovers") == 2
    assert UUID(edges.xcoms["recovers"]["action_id"]) == UUID(edges.actions["recovers"][-1].id)


def test_airflow_fail_exception_of_a_callable_is_not_retried(edges: DagRun) -> None:
    assert edges.states["gives_up"] == "failed"
    assert [row.end for row in edges.actions["gives_up"]] == [("ERROR", "AirflowFailException")]


def test_a_callable_that_exits_has_failed(edges: DagRun) -> None:
    assert edges.states["exits"] == "failed"
    assert edges.end("exits") == ("ERROR", "SystemExit")


def test_a_result_too_large_for_a_report_is_an_xcom_all_the_same(edges: DagRun) -> None:
    assert edges.end("is_large") == ("SUCCESS", None)
    assert len(edges.result("is_large")) == 2_000_000


def test_what_no_xcom_can_hold_fails_the_task_as_with_any_operator(edges: DagRun) -> None:
    assert edges.end("is_no_xcom") == ("SUCCESS", None)
    assert edges.states["is_no_xcom"] == "failed"
    assert "Cannot serialize object of type <class 'object'>" in edges.log


def test_a_parameter_job_that_is_given_an_argument_gets_it(edges: DagRun) -> None:
    assert edges.result("takes_own_job") == "mine"
    assert edges.result("takes_own_job_by_position") == "mine"


def test_a_decorated_function_may_return_text_for_the_shell(edges: DagRun) -> None:
    assert edges.said("hello from load.sh") == 1


def test_a_decorated_function_must_return_a_command(edges: DagRun) -> None:
    assert edges.states["returns_nothing"] == "failed"
    assert "returns_nothing returned None" in edges.log
    assert "a function of @task.async_action_local must return the command" in edges.log


def test_a_decorated_function_may_skip_its_task(edges: DagRun) -> None:
    assert edges.states["skips_command"] == "skipped"
    assert {"skips_command", "returns_nothing"}.isdisjoint(edges.actions)


def test_tasks_test_runs_one_task(home: Home) -> None:
    run = home.run_dag("single", "-m", "airflow", "tasks", "test", "single", "greets")
    assert run.said("hello from a single task") == 1


def test_tasks_test_leaves_nothing_of_the_run_that_it_deletes(home: Home) -> None:
    home.run("-m", "airflow", "tasks", "test", "single", "greets")
    assert home.execute("SELECT run_id FROM dag_run WHERE dag_id = 'single'") == []
    orphans = "SELECT id FROM async_action_report WHERE action_id NOT IN (SELECT id FROM async_action)"
    assert home.execute(orphans) == []
    assert home.execute("SELECT id FROM async_action WHERE dag_id = 'single'") == []


def test_without_our_tables_it_says_what_to_do_at_once(home: Home) -> None:
    for table in TABLES:
        home.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
    try:
        done = home.run(str(DAGS / "single.py"))
    finally:
        for table in TABLES:
            home.execute(f"ALTER TABLE {table}_away RENAME TO {table}")
    assert "TablesMissing: The tables of airflow-asyncaction are missing" in done.stdout + done.stderr
    assert "run 'airflow db migrate'" in done.stdout + done.stderr
    assert "Retrying in" not in done.stdout + done.stderr


def test_what_airflow_masks_is_masked_in_actions_and_true_for_jobs_and_xcoms(home: Home) -> None:
    masking = home.run_dag("masking", str(DAGS / "masking.py"))
    dsn = 'db://p@ss "word"/1@host'
    assert masking.result("reports") == {"dsn": dsn}
    assert masking.result("logs") == 'p@ss "word"/1'
    assert masking.reported["reports"] == ["reported: db://***@host"]
    assert masking.reported["logs"] == ["logged: ***"]
    assert masking.actions["prints"][-1].error_message == (
        'The job exited with code 3\ngiven: {"dsn": "db://***@host"}'
    )
    assert masking.actions["fails"][-1].error_message == "no ***"
    shown = home.execute(
        "SELECT arguments, status_details, error_message, agent, job, exit, logs, body"
        " FROM async_action JOIN async_action_report ON action_id = async_action.id"
    )
    assert [row for row in shown if "@ss" in str(row)] == []
    details = home.execute("SELECT status_details, arguments FROM async_action WHERE task_id = 'reports'")
    assert details == [('{"progress":50,"message":"with db://***@host"}', '{"dsn":"***"}')]  # by its name
