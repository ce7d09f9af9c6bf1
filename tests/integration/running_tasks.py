# SPDX-License-Identifier: Apache-2.0
"""Running task instances as rows of Airflow's own tables, and their commitments."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.sdk.serde import deserialize
from airflow.state import TaskScope, get_state_backend
from airflow.utils.state import TaskInstanceState
from sqlalchemy import Engine, Row, and_, delete, insert, select, update
from sqlalchemy.orm import Session
from uuid6 import uuid7

from airflow_asyncaction.protocol.tasks import COMMITMENT_KEY
from tests.airflow_release import HAS_REGIONS, INDEX_COLUMN

OUR_TRIGGER = "airflow_asyncaction.triggers.pods.trigger.PodActionTrigger"

_tables = DagRun.metadata.tables
_runs, _instances = _tables["dag_run"], _tables["task_instance"]


@dataclass(frozen=True)
class RunningTask:
    """One try of a running task."""

    engine: Engine
    ti_id: str
    run_id: str
    dag_id: str = "dag"
    task_id: str = "task"
    map_index: int = -1
    try_number: int = 1
    iteration: int | None = None  # of its loop (Airflow 3.4)
    has_region: bool = HAS_REGIONS  # those that ran before an upgrade from Airflow 3.3 have none

    @property
    def scope(self) -> TaskScope:
        """Scope of its task state store."""
        place = self._place()
        index = place.pop(INDEX_COLUMN)
        return TaskScope(
            dag_id=self.dag_id, run_id=self.run_id, task_id=self.task_id, map_index=index, **place
        )

    def commit(self, nonce: str | None = None) -> str:
        """Write the commitment to a nonce, as the task does with the Execution API. Return the nonce."""
        nonce = nonce or secrets.token_hex(32)
        digest = hashlib.sha256(nonce.encode()).hexdigest()
        with Session(self.engine) as session:
            get_state_backend().set(self.scope, COMMITMENT_KEY, json.dumps(digest), session=session)
            session.commit()
        return nonce

    def commitment(self) -> str | None:
        """Return the stored commitment."""
        with Session(self.engine) as session:
            return get_state_backend().get(self.scope, COMMITMENT_KEY, session=session)

    def set_state(self, state: TaskInstanceState | None) -> None:
        """Change the state of the task instance in Airflow."""
        with self.engine.begin() as connection:
            connection.execute(
                update(_instances).where(_instances.c.id == UUID(self.ti_id)).values(state=state)
            )

    def set_rendered_map_index(self, name: str) -> None:
        """Set the name that ``map_index_template`` renders."""
        with self.engine.begin() as connection:
            of_it = _instances.c.id == UUID(self.ti_id)
            connection.execute(update(_instances).where(of_it).values(rendered_map_index=name))

    def set_retries(self, retries: int) -> None:
        """Set the number of retries after this try."""
        with self.engine.begin() as connection:
            values = {"max_tries": self.try_number - 1 + retries}
            connection.execute(update(_instances).where(_instances.c.id == UUID(self.ti_id)).values(**values))

    def defer(self, trigger: str = OUR_TRIGGER) -> None:
        """Defer the task, as the Execution API does."""
        with Session(self.engine) as session:
            row = Trigger(classpath=trigger, kwargs={})
            session.add(row)
            session.flush()
            version = DagVersion.get_latest_version(self.dag_id, session=session)
            values = {
                "state": TaskInstanceState.DEFERRED,
                "dag_version_id": version.id if version else None,
                "trigger_id": row.id,
                "next_method": "resume",
                "next_kwargs": {"action_id": "kept"},
            }
            session.execute(update(_instances).where(_instances.c.id == UUID(self.ti_id)).values(**values))
            session.commit()

    def delete_run(self) -> None:
        """Delete its Dag run with all tasks, as a user may."""
        with self.engine.begin() as connection:
            connection.execute(delete(_instances).where(_instances.c.run_id == self.run_id))
            connection.execute(delete(_runs).where(_runs.c.run_id == self.run_id))

    def row(self) -> Row[Any]:
        """Return the task instance as Airflow stores it."""
        with self.engine.connect() as connection:
            query = select(_instances).where(_instances.c.id == UUID(self.ti_id))
            return connection.execute(query).one()

    def xcoms(self) -> dict[str, Any]:
        """Return its XComs as the worker of a downstream task receives them."""
        if HAS_REGIONS:
            columns = _tables["xcom_v2"].c
            of_it = columns.task_instance_id == UUID(self.ti_id)
        else:
            columns = _tables["xcom"].c
            of_it = and_(
                columns.run_id == self.run_id,
                columns.task_id == self.task_id,
                columns.map_index == self.map_index,
            )
        query = select(columns.key, columns.value).where(of_it)
        with self.engine.connect() as connection:
            return {key: deserialize(value) for key, value in connection.execute(query)}

    def _place(self) -> dict[str, Any]:
        """Return the columns of its row that tell it from others of the same task in the run."""
        if not self.has_region:
            return {INDEX_COLUMN: self.map_index}
        from tests.integration import regions

        return regions.place(
            self.engine,
            dag_id=self.dag_id,
            run_id=self.run_id,
            task_id=self.task_id,
            map_index=self.map_index,
            iteration=self.iteration,
        )

    def _insert(self) -> None:
        values = {
            "id": UUID(self.ti_id),
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "task_id": self.task_id,
            "try_number": self.try_number,
            "pool": "default_pool",
            "queue": "default",
            "priority_weight": 1,
            "state": TaskInstanceState.RUNNING,
            **self._place(),
        }
        with self.engine.begin() as connection:
            connection.execute(insert(_instances).values(values))

    def next_try(self) -> RunningTask:
        """Start the next try: a task instance with a new id, which replaces this one."""
        again = replace(self, ti_id=str(uuid7()), try_number=self.try_number + 1)
        with self.engine.begin() as connection:
            of_it = _instances.c.id == UUID(self.ti_id)
            if HAS_REGIONS:  # Airflow 3.4 archives it
                archived = {"working_set": None, "archived_reason": "retry", "state": "failed"}
                connection.execute(update(_instances).where(of_it).values(archived))
            else:
                connection.execute(delete(_instances).where(of_it))
        again._insert()
        return again

    def retried(self, *, is_cleared: bool = False, says_it_ended_at: datetime | None = None) -> RunningTask:
        """Fail this try and start the next one, as Airflow does for a retry or after a clear."""
        time.sleep(0.005)  # when it was made is in the next one's id, in milliseconds
        with Session(self.engine) as session:
            instance = session.get_one(TaskInstance, UUID(self.ti_id))
            instance.end_date = says_it_ended_at
            successor = instance.prepare_db_for_next_try(session)
            if HAS_REGIONS:
                instance = successor  # another row
            else:
                instance.try_number += 1
            if is_cleared:
                instance.max_tries += self.try_number
            again = replace(self, ti_id=str(instance.id), try_number=instance.try_number)
            session.commit()
        time.sleep(0.005)
        return again


def running_task(
    engine: Engine,
    *,
    dag_id: str = "dag",
    map_index: int = -1,
    iteration: int | None = None,
    run_id: str | None = None,
    has_region: bool = HAS_REGIONS,
) -> RunningTask:
    """Return a running task of a new Dag run.

    :param has_region: false for a mapped task whose Dag is not known to map it
    """
    run_id = run_id or f"manual__{secrets.token_hex(8)}"
    task = RunningTask(
        engine,
        str(uuid7()),
        run_id,
        dag_id=dag_id,
        map_index=map_index,
        iteration=iteration,
        has_region=has_region,
    )
    with engine.begin() as connection:
        connection.execute(
            insert(_runs).values(
                dag_id=task.dag_id,
                run_id=task.run_id,
                run_type="manual",
                state="running",
                run_after=datetime.now(UTC),
            )
        )
    task._insert()
    return task
