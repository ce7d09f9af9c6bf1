# SPDX-License-Identifier: Apache-2.0
"""Loops of Airflow 3.4: each iteration of a task has an action of its own, whatever the others do."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from airflow.models.dynamic_region import DynamicRegion
from airflow.sdk import DAG, BaseOperator
from airflow.utils.state import TaskInstanceState
from sqlalchemy.orm import Session
from uuid6 import uuid7

from airflow_asyncaction.airflow_internals.server import dag_runs, task_instances
from airflow_asyncaction.protocol.lifecycle import Exit
from airflow_asyncaction.store import listing
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.filtering import Filter
from tests.integration.databases import Database
from tests.integration.running_tasks import RunningTask, running_task
from tests.integration.signed_jobs import HookClient, SignedJob, registered
from tests.integration.stored_dags import store_dag

pytestmark = pytest.mark.integration

NewTask = Callable[..., RunningTask]


@pytest.fixture
def hook(mounted: str) -> str:
    return mounted


@pytest.fixture(params=[-1, 2], ids=["plain", "mapped"])
def first(request: pytest.FixtureRequest, new_task: NewTask) -> RunningTask:
    """Return the first iteration of a task in a loop."""
    return new_task(map_index=request.param, iteration=0)


def iteration(task: RunningTask, number: int) -> RunningTask:
    """Start another iteration of the task."""
    before = replace(task, ti_id=str(uuid7()), iteration=number, try_number=0)
    return before.next_try()


def ended(job: SignedJob, status: str = "SUCCESS") -> SignedJob:
    assert job.report(status=status).status == 200
    job.send_message(Exit(code=0 if status == "SUCCESS" else 1))
    return job


def test_an_iteration_fences_no_other(first: RunningTask, client: HookClient) -> None:
    earlier = registered(first, client)
    later = registered(iteration(first, 1), client)
    assert earlier.report(status="RUNNING").status == 200
    assert later.report(status="RUNNING").status == 200
    assert registered(first.next_try(), client).info.job_id != earlier.info.job_id
    assert earlier.report(status="RUNNING").error == (410, "superseded")
    assert later.report(status="RUNNING").status == 200


def test_the_next_try_adopts_the_job_of_its_own_iteration(first: RunningTask, client: HookClient) -> None:
    jobs = [registered(first, client, adoptable=True)]
    jobs.append(registered(iteration(first, 1), client, adoptable=True))
    adopting = registered(first.next_try(), client, adoptable=True)
    assert adopting.info.job_id == jobs[0].info.job_id != jobs[1].info.job_id


def test_an_action_names_its_iteration(first: RunningTask, client: HookClient, actions: Actions) -> None:
    job = registered(iteration(first, 3), client)
    (listed,) = listing.list_actions(
        actions.database, Filter(run_id=first.run_id, iteration=3), limit=9
    ).actions
    shown = listing.find(actions.database, job.info.job_id).to_short_json(datetime.now(UTC))
    for fields in (shown, listed.to_short_json(datetime.now(UTC))):
        assert (fields["iteration"], fields["mapIndex"]) == (3, first.map_index)
        assert fields["regionId"] is not None
    none = Filter(run_id=first.run_id, iteration=0)
    assert listing.list_actions(actions.database, none, limit=9).actions == ()


def test_a_failed_iteration_is_final_though_others_go_on(
    first: RunningTask, client: HookClient, actions: Actions
) -> None:
    failed = ended(registered(first, client), "ERROR")
    outlook = partial(listing.find_outlook, actions.database)
    assert not outlook(listing.find(actions.database, failed.info.job_id)).is_final
    registered(iteration(first, 1), client)
    first.set_state(TaskInstanceState.FAILED)
    found = outlook(listing.find(actions.database, failed.info.job_id))
    assert (found.next_attempt, found.is_final) == (None, True)
    retry = registered(first.next_try(), client)
    assert outlook(listing.find(actions.database, failed.info.job_id)).next_attempt == retry.info.job_id


def test_an_iteration_is_found_in_the_region_that_a_clear_has_made(
    first: RunningTask, client: HookClient, actions: Actions
) -> None:
    job = registered(first, client)
    before = listing.find(actions.database, job.info.job_id).row.region_id
    moved = first.next_try()
    after = fork(moved, before)
    assert listing.find(actions.database, job.info.job_id).row.region_id == after != before


def fork(task: RunningTask, region_id: Any) -> Any:
    """Move a task instance to a fork of its region, as clearing the gate of its loop does."""
    table = task_instances.table
    with Session(task.engine) as session:
        old = session.get_one(DynamicRegion, region_id)
        columns = ("dag_id", "run_id", "node_id", "parent_region_id", "parent_region_index")
        copied = {name: getattr(old, name) for name in columns}
        forked = DynamicRegion(**copied, forked_from_region_id=old.id)
        session.add(forked)
        session.flush()
        session.execute(table.update().where(table.c.id == task.row().id).values(region_id=forked.id))
        session.commit()
        return forked.id


@pytest.mark.parametrize("map_index", [-1, 2])
def test_a_command_fails_the_iteration_alone(database: Database, map_index: int) -> None:
    with DAG(f"loop_{secrets.token_hex(4)}", schedule=None) as dag:
        BaseOperator(task_id="task")
    store_dag(database.engine, dag)
    first = running_task(database.engine, dag_id=dag.dag_id, map_index=map_index, iteration=0)
    other = iteration(first, 1)
    dag_runs.mark_task_failed(first.dag_id, first.run_id, "task", map_index=map_index, iteration=0)
    assert (first.row().state, other.row().state) == ("failed", "running")
