# SPDX-License-Identifier: Apache-2.0
"""Invalid arguments of operators: rejected when the Dag is parsed, or before a job starts."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_asyncaction.decorators import async_action, async_action_local
from airflow_asyncaction.exceptions import ActionStopped, Skipped
from airflow_asyncaction.operators import LocalActionOperator, ServiceActionOperator
from airflow_asyncaction.operators.base import BaseActionOperator
from airflow_asyncaction.protocol.actions import ActionOptions, State, StopReason
from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.options import OptionField, options_of
from airflow_asyncaction.protocol.tasks import ActionSpec, TaskView
from airflow_asyncaction.runners.skip_codes import mark_skip
from airflow_asyncaction.store.models import action_table

INFO = JobInfo(
    job_id=JobId("1c2d3e4f-0000-7000-8000-000000000000"), secret_key="s" * 43, hook_url="http://a/async"
)


def local(**parameters: Any) -> LocalActionOperator:
    return LocalActionOperator(**{"task_id": "t", "command": "true", **parameters})


@pytest.mark.parametrize("name", ["heartbeat_timeout", "start_timeout", "stop_grace"])
@pytest.mark.parametrize("value", [-1, -0.5, timedelta(-1), math.nan, math.inf, 1e300, "5", True, [5]])
def test_what_is_no_duration_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name} is .*: it must be a positive number of seconds"):
        local(**{name: value})


@pytest.mark.parametrize("name", ["heartbeat_timeout", "start_timeout"])
def test_a_clock_that_has_run_out_from_the_start_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        local(**{name: 0})


def test_durations_are_seconds_or_timedeltas() -> None:
    made = local(heartbeat_timeout=1.5, start_timeout=timedelta(minutes=1), stop_grace=0)
    options = made.options
    assert options.heartbeat_timeout == timedelta(seconds=1.5)
    assert options.start_timeout == timedelta(minutes=1)
    assert made.stop_grace == timedelta(0)


@pytest.mark.parametrize(
    ("given", "codes"),
    [(None, ()), (99, (99,)), (0, (0,)), ([99, 3], (3, 99)), ({7}, (7,)), (range(3, 5), (3, 4)), ([], ())],
)
def test_exit_codes_to_skip_on_are_specified_as_in_airflow(given: Any, codes: tuple[int, ...]) -> None:
    assert local(skip_on_exit_code=given).skip_on_exit_code == codes


@pytest.mark.parametrize(
    ("exit_", "is_skip"),
    [
        (Exit(code=99), True),
        (Exit(code=137, signal="SIGKILL"), True),
        (Exit(code=3), False),
        (Exit(code=0), False),
        (Exit(signal="SIGKILL"), False),
        (Exit(code=137, signal="SIGKILL", reason="OOMKilled"), False),
        (Exit(code=0, message="nothing today", is_skip=True), True),
    ],
)
def test_an_exit_is_a_skip_by_its_code_unless_there_is_another_reason(exit_: Exit, is_skip: bool) -> None:
    assert mark_skip(exit_, (99, 137)).is_skip is is_skip


@pytest.mark.parametrize("given", [256, -1, True, "99", 9.5, [300], ["99"], object()])
def test_what_is_no_exit_code_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"skip_on_exit_code is .*: it must be an exit code from 0 to 255"):
        local(skip_on_exit_code=given)


def test_a_callable_has_no_exit_code_to_skip_on() -> None:
    with pytest.raises(ValueError, match="no exit code: raise AirflowSkipException"):
        ServiceActionOperator(task_id="t", python_callable=print, skip_on_exit_code=99)


@pytest.mark.parametrize("completion", ["exits", "EXIT", "", None, 1])
def test_an_unknown_completion_is_refused_with_the_known_ones(completion: object) -> None:
    with pytest.raises(ValueError, match='it must be "exit" or "report"'):
        local(completion=completion)


@pytest.mark.parametrize("command", ["", "  \n", [], [1], ["echo", None], {"echo": 1}, b"true", None, 7])
def test_what_is_no_command_is_refused_before_it_is_run(command: object) -> None:
    with pytest.raises(ValueError, match="it must be a non-empty string for the shell, or a list of"):
        local(command=command).make_runner({})


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ([("A", "b")], "env must be a mapping of strings to strings"),
        ({"N": 1}, "env must map strings to strings, but N is of type int"),
        ({"N": None}, "env must map strings to strings, but N is of type NoneType"),
        ({1: "n"}, "env must map strings to strings, but has the name 1"),
        ({"A=B": "c"}, "a name in the environment is empty or contains '='"),
        ({"": "c"}, "a name in the environment is empty or contains '='"),
    ],
)
def test_what_is_no_environment_is_refused_before_anything_is_run(env: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        local(env=env).make_runner({})


@pytest.mark.parametrize(
    "parameters", [{"command": ["echo", "a\0b"]}, {"env": {"A": "a\0b"}}, {"cwd": "a\0b"}, {"cwd": 7}]
)
def test_what_no_process_can_be_given_is_refused_before_anything_is_run(parameters: Any) -> None:
    with pytest.raises(ValueError, match=r"NUL|cwd"):
        local(**parameters).make_runner({})


def test_a_folder_may_be_a_path(tmp_path: Path) -> None:
    local(cwd=tmp_path).make_runner({})


def test_an_error_of_the_environment_does_not_show_its_values() -> None:
    with pytest.raises(ValueError, match="env must map") as raised:
        local(env={"PASSWORD": b"hush"}).make_runner({})
    assert "hush" not in str(raised.value)


def test_a_callable_ends_when_it_returns() -> None:
    with pytest.raises(ValueError, match='completion="report" is not supported for callables'):
        ServiceActionOperator(task_id="t", python_callable=print, completion="report")


def test_what_cannot_be_called_is_refused() -> None:
    not_callable: Any = "print"
    with pytest.raises(TypeError, match="python_callable must be callable"):
        ServiceActionOperator(task_id="t", python_callable=not_callable)


@pytest.mark.parametrize("decorator", [async_action, async_action_local])
def test_an_argument_that_a_function_lacks_is_named_when_the_dag_is_parsed(decorator: Any) -> None:
    def takes(first: int, second: int) -> None:
        """Nothing."""

    with pytest.raises(TypeError, match="missing a required argument: 'second'"):
        decorator(takes)(1)


def ended(state: State, error_name: str | None, *, stop_reason: StopReason | None = None) -> TaskView:
    return TaskView(
        state=state,
        is_done=True,
        verb=None,
        stop_reason=stop_reason,
        results=None,
        error_name=error_name,
        error_message="so it was",
        status_details=None,
    )


@pytest.mark.parametrize("error_name", ["Requested", "Cancelled"])
def test_a_requested_stop_fails_the_task_without_a_retry_and_has_all_names(error_name: str) -> None:
    view = ended(State.STOPPED, error_name, stop_reason=StopReason.REQUESTED)
    with pytest.raises(AirflowFailException) as raised:
        end_as(view)
    error = raised.value
    assert isinstance(error, ActionStopped)
    assert (error.action_id, error.error_name, error.error_message) == (INFO.job_id, error_name, "so it was")


def test_a_skipped_action_skips_its_task() -> None:
    with pytest.raises(AirflowSkipException, match="Skipped: so it was") as raised:
        end_as(ended(State.STOPPED, "Skipped"))
    assert isinstance(raised.value, Skipped)
    assert raised.value.action_id == INFO.job_id


@pytest.mark.parametrize("error_name", ["StopRequested", "ActionSkipped", "Killed"])
def test_no_error_name_of_a_job_decides_whether_its_task_is_tried_again(error_name: str) -> None:
    with pytest.raises(ActionStopped) as raised:
        end_as(ended(State.STOPPED, error_name, stop_reason=StopReason.KILLED))
    assert type(raised.value) is ActionStopped


def end_as(view: TaskView) -> Any:
    operator = local()
    return operator.get_results(view, INFO, operator.make_runner({}))


@pytest.mark.parametrize("option", options_of(ActionOptions), ids=lambda option: option.name)
def test_an_option_has_a_parameter_a_description_and_a_column(option: OptionField) -> None:
    parameters = {
        name
        for base in BaseActionOperator.__mro__
        if "__init__" in vars(base) and base.__module__.startswith("airflow_asyncaction")
        for name in signature(base.__init__).parameters  # type: ignore[misc]
    }
    assert option.name in parameters
    assert f":param {option.name}: " in (BaseActionOperator.__doc__ or "")
    assert option.column in action_table.c
    assert set(ActionSpec(type="t", runner="local").to_json()) >= {option.json_name}
