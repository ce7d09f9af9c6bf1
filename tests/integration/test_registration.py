# SPDX-License-Identifier: Apache-2.0
"""Registration: a running task instance gets an action, proven by its task state store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

from airflow_asyncaction.protocol.actions import State
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.protocol.strict_json import JsonText
from airflow_asyncaction.protocol.tasks import TASK_ID_HEADER, TASK_NONCE_HEADER
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.listing import find
from airflow_asyncaction.store.models import action_table
from tests.integration.databases import Database
from tests.integration.running_tasks import RunningTask
from tests.integration.signed_jobs import Answer, HookClient, job_of, register, registered, sent_registration

pytestmark = pytest.mark.integration

NewTask = Callable[..., RunningTask]
SPEC = {
    "type": "test",
    "runner": "local",
    "arguments": "{}",
    "completion": "exit",
    "requireReport": False,
    "startTimeoutSeconds": None,
    "heartbeatTimeoutSeconds": None,
    "acceptV1": True,
    "maxLogLines": 10,
}


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


@pytest.fixture
def task(new_task: NewTask) -> RunningTask:
    return new_task()


def actions_of(database: Database, task: RunningTask) -> list[Any]:
    query = select(action_table).where(action_table.c.run_id == task.run_id)
    with database.engine.connect() as connection:
        return list(connection.execute(query.order_by(action_table.c.created_at)))


def test_a_running_task_with_a_commitment_gets_an_action(
    database: Database, client: HookClient, new_task: NewTask
) -> None:
    task = new_task(dag_id="some.dag", map_index=3)
    answer = register(task, client, task.commit(), type="etl.load")
    assert (answer.status, set(answer.fields)) == (
        200,
        {"actionId", "secretKey", "taskKey", "orchestrator", "attempt", "wasLaunched"},
    )
    assert (answer.fields["orchestrator"], answer.fields["attempt"]) == ("airflow", 1)
    assert len(answer.fields["secretKey"].encode("ascii")) * 6 >= 256
    (row,) = actions_of(database, task)
    assert (row.id, row.ti_id, row.type) == (answer.fields["actionId"], task.ti_id, "etl.load")
    assert (row.dag_id, row.task_id, row.map_index) == ("some.dag", "task", 3)


def test_a_webda_job_gets_the_method_to_call(
    database: Database, actions: Actions, client: HookClient, task: RunningTask
) -> None:
    call = {"service_name": "ShopService", "method": "add", "orchestrator": "AsyncService"}
    arguments = JsonText('[1,{"\u00fc":null}]')
    answer = register(task, client, task.commit(), arguments=arguments, **call)
    assert answer.fields["orchestrator"] == "AsyncService"
    job = job_of(answer, client)
    told = [job.send_v1("POST", "", {"status": "RUNNING"}).fields, job.send("GET", "/job").fields]
    for fields in told:
        assert (fields["serviceName"], fields["method"]) == ("ShopService", "add")
        assert fields["arguments"] == [1, {"\u00fc": None}]
    (row,) = actions_of(database, task)
    assert (row.service_name, row.method, row.orchestrator) == ("ShopService", "add", "AsyncService")
    shown = find(actions.database, row.id).to_json(datetime.now(UTC))
    assert (shown["serviceName"], shown["method"], shown["arguments"]) == (
        "ShopService",
        "add",
        [1, {"\u00fc": None}],
    )


def test_other_jobs_get_no_method(database: Database, client: HookClient, task: RunningTask) -> None:
    job = registered(task, client)
    fields = job.report().fields
    assert (fields["serviceName"], fields["method"], fields["arguments"]) == (None, None, {})
    (row,) = actions_of(database, task)
    assert (row.service_name, row.method, row.orchestrator) == (None, None, "airflow")


def test_a_webda_job_that_found_no_service_has_failed(client: HookClient, task: RunningTask) -> None:
    call = {"service_name": "ShopService", "method": "add", "require_report": True}
    view = registered(task, client, **call).send_message(Exit(code=0))
    assert (view.state, view.error_name) == (State.ERROR, "NoReport")
    assert "named 'airflow', the value of JOB_ORCHESTRATOR" in (view.error_message or "")


def test_a_commitment_is_used_up(client: HookClient, task: RunningTask) -> None:
    nonce = task.commit()
    assert task.commitment() is not None
    register(task, client, nonce)
    assert task.commitment() is None


def test_the_same_nonce_gets_the_same_action(
    database: Database, client: HookClient, task: RunningTask
) -> None:
    nonce = task.commit()
    first, again = register(task, client, nonce), register(task, client, nonce)
    assert again.fields == first.fields
    assert len(actions_of(database, task)) == 1


def test_a_task_instance_is_the_same_in_upper_case(client: HookClient, task: RunningTask) -> None:
    nonce = task.commit()
    shouting = replace(task, ti_id=task.ti_id.upper())
    first, again = register(shouting, client, nonce), register(shouting, client, nonce)
    assert (first.status, again.fields) == (200, first.fields)


def test_another_nonce_is_too_late(client: HookClient, task: RunningTask) -> None:
    register(task, client, task.commit())
    assert register(task, client, task.commit()).error == (409, "already_registered")


def test_a_nonce_without_a_commitment_proves_nothing(
    database: Database, client: HookClient, task: RunningTask
) -> None:
    assert register(task, client, "n" * 64).error == (403, "not_proven")
    task.commit()
    assert register(task, client, "n" * 64).error == (403, "not_proven")
    assert task.commitment() is not None
    assert actions_of(database, task) == []


def test_a_commitment_is_good_for_its_task_alone(client: HookClient, new_task: NewTask) -> None:
    task, other = new_task(), new_task()
    assert register(other, client, task.commit()).error == (403, "not_proven")


@pytest.mark.parametrize(
    "state", [state for state in TaskInstanceState if state is not TaskInstanceState.RUNNING]
)
def test_only_a_running_task_may_register(
    client: HookClient, task: RunningTask, state: TaskInstanceState
) -> None:
    task.set_state(state)
    assert register(task, client, task.commit()).error == (404, "no_such_task_instance")


def test_an_unknown_task_may_not_register(client: HookClient, task: RunningTask) -> None:
    stranger = replace(task, ti_id=str(uuid4()))
    assert register(stranger, client, task.commit()).error == (404, "no_such_task_instance")


def test_a_new_try_takes_over(database: Database, client: HookClient, task: RunningTask) -> None:
    first = registered(task, client)
    first.report(status="RUNNING")
    second = registered(task.next_try(), client)
    assert first.report(status="SUCCESS").error == (410, "superseded")
    assert first.report().error == (410, "superseded")
    assert first.view().state is State.STOPPED
    assert first.view().error_name == "Superseded"
    assert second.report(status="SUCCESS").fields["attempt"] == 2
    assert [row.fenced for row in actions_of(database, task)] == [True, False]


def test_an_end_stays_as_it_was_when_a_new_try_takes_over(client: HookClient, task: RunningTask) -> None:
    first = registered(task, client)
    first.report(status="ERROR", errorName="Boom")
    registered(task.next_try(), client)
    assert (first.view().state, first.view().error_name) == (State.ERROR, "Boom")
    assert first.report(status="ERROR").error == (410, "superseded")


def test_other_tasks_are_not_changed(client: HookClient, new_task: NewTask) -> None:
    one, other = registered(new_task(), client), registered(new_task(), client)
    assert (one.report().status, other.report().status) == (200, 200)


def test_concurrent_requests_get_one_action(database: Database, hook: str, task: RunningTask) -> None:
    nonce = task.commit()

    def ask(_: int) -> Answer:
        with HookClient(hook) as client:
            answer = register(task, client, nonce)
            while answer.status == 503:
                answer = register(task, client, nonce)
            return answer

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(ask, range(12)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(actions_of(database, task)) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"spec": []}, "spec"),
        ({"spec": {}}, "type"),
        ({"spec": {**SPEC, "type": 1}}, "type"),
        ({"spec": {**SPEC, "completion": "never"}}, "completion"),
        ({"spec": {**SPEC, "arguments": "no json"}}, "arguments"),
        ({"spec": {**SPEC, "arguments": {}}}, "arguments"),
        ({"spec": {**SPEC, "startTimeoutSeconds": -1}}, "startTimeoutSeconds"),
        ({"spec": {**SPEC, "heartbeatTimeoutSeconds": 1e300}}, "heartbeatTimeoutSeconds"),
        ({"spec": {**SPEC, "maxLogLines": True}}, "maxLogLines"),
        ({"spec": {**SPEC, "serviceName": "ShopService"}}, "method"),
        ({"spec": {**SPEC, "serviceName": "S", "method": "m" * 251}}, "method"),
        ({"spec": {**SPEC, "serviceName": "S", "method": ["m"]}}, "method"),
        ({"spec": {**SPEC, "orchestrator": "a\nb"}}, "orchestrator"),
    ],
)
def test_a_request_without_a_spec_is_malformed(
    client: HookClient, task: RunningTask, change: dict[str, object], field: str
) -> None:
    answer = sent_registration(client, task.ti_id, task.commit(), {"spec": SPEC, **change})
    assert (answer.error, answer.fields["field"]) == ((400, "malformed"), field)


@pytest.mark.parametrize("ti_id", [None, "x"])
def test_a_request_without_a_task_instance_proves_nothing(client: HookClient, ti_id: str | None) -> None:
    headers = {TASK_NONCE_HEADER: "n"} if ti_id is None else {TASK_NONCE_HEADER: "n", TASK_ID_HEADER: ti_id}
    assert client.send("POST", "/task/register", b"{", headers).error == (403, "not_proven")


def test_an_unproven_body_is_not_parsed(client: HookClient, task: RunningTask) -> None:
    nonce, no_json = task.commit(), b"[" * 1_000_000
    proof = {TASK_ID_HEADER: task.ti_id, TASK_NONCE_HEADER: nonce}
    wrong = {**proof, TASK_NONCE_HEADER: "another"}
    assert client.send("POST", "/task/register", no_json, wrong).error == (403, "not_proven")
    assert client.send("POST", "/task/register", no_json, proof).error == (400, "malformed")
    assert register(task, client, nonce).status == 200  # a mistake does not use the nonce up


def test_names_that_no_database_takes_are_made_printable(
    database: Database, client: HookClient, task: RunningTask
) -> None:
    spec = {**SPEC, "type": "a\0" + "t" * 300, "runner": "\0", "maxLogLines": 10**30}
    assert sent_registration(client, task.ti_id, task.commit(), {"spec": spec}).status == 200
    (row,) = actions_of(database, task)
    assert (row.type, row.runner) == ("a\ufffd" + "t" * 248, "\ufffd")
