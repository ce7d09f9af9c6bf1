# SPDX-License-Identifier: Apache-2.0
"""Stored Dags, their runs and running tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from airflow.dag_processing.collection import update_dag_parsing_results_in_db
from airflow.models.dagbundle import DagBundleModel
from airflow.sdk import DAG, BaseOperator
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from uuid6 import uuid7

from tests.integration.running_tasks import RunningTask, running_task

_BUNDLE = "tests"


@dataclass(frozen=True)
class StoredRun:
    """A run of a Dag."""

    first: RunningTask

    def task(self, task_id: str, map_index: int = -1) -> RunningTask:
        """Start a task of the run."""
        before = replace(self.first, ti_id=str(uuid7()), task_id=task_id, map_index=map_index, try_number=0)
        return before.next_try()


def run_of(engine: Engine, dag_id: str) -> StoredRun:
    """Return a new run of a Dag, whether or not the Dag is stored."""
    return StoredRun(running_task(engine, dag_id=dag_id))


def store_dag(engine: Engine, dag: DAG) -> None:
    """Store a Dag as the Dag processor does."""
    with Session(engine) as session:
        session.merge(DagBundleModel(name=_BUNDLE))
        session.commit()
        update_dag_parsing_results_in_db(
            _BUNDLE, None, [LazyDeserializedDAG.from_dag(dag)], {}, None, set(), session
        )
        session.commit()


def lineage_dag(dag_id: str) -> DAG:
    """Return a Dag of ``far >> near (mapped) >> reader (mapped) >> later``, beside ``far >> sibling``."""

    class Work(BaseOperator):
        def __init__(self, *, number: int = 0, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.number = number

    with DAG(dag_id, schedule=None) as dag:
        far = Work(task_id="far")
        near = Work.partial(task_id="near").expand(number=[1, 2])
        reader = Work.partial(task_id="reader").expand(number=[1, 2])
        far >> near >> reader >> Work(task_id="later")
        far >> Work(task_id="sibling")
    return dag
