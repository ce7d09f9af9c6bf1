# SPDX-License-Identifier: Apache-2.0
"""Creates targets of the load: running task instances, each with a registered action.

``python -m benchmarks.targets COUNT`` in the environment of a deployment; prints JSON lines.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

HOSTNAME = "benchmark"
PID = 4711


@dataclass(frozen=True)
class Target:
    """A running task instance: its token for Airflow's execution API, its action, and the signing keys."""

    ti_id: str
    token: str
    job_id: str
    secret_key: str
    task_key: str


def main() -> None:
    """Print as many targets as the argument says."""
    from airflow.executors.base_executor import BaseExecutor

    generator = BaseExecutor().jwt_generator
    for target in _make(int(sys.argv[1]), generator):
        print(json.dumps(dataclasses.asdict(target)))


def _make(count: int, generator: Any) -> list[Target]:
    from airflow import settings
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.state import TaskScope, get_state_backend
    from airflow.utils.session import create_session
    from sqlalchemy import insert
    from uuid6 import uuid7

    from airflow_asyncaction.protocol.tasks import COMMITMENT_KEY, ActionSpec
    from airflow_asyncaction.store.database import Database
    from airflow_asyncaction.store.registration import Claimant, RegistrationRequest, register

    now, run_id = datetime.now(UTC), f"benchmark-{secrets.token_hex(4)}"
    key = {"dag_id": "benchmark", "run_id": run_id}
    run = {**key, "run_type": "manual", "run_after": now, "state": "running", "logical_date": now}
    ti = {**key, "state": "running", "hostname": HOSTNAME, "pid": PID, "try_number": 1}
    ti |= {"map_index": -1, "pool": "default_pool", "pool_slots": 1, "queue": "default"}
    database = Database(settings.get_engine())
    targets = []
    wanted = RegistrationRequest(ActionSpec(type="benchmark", runner="local"))
    with create_session() as session:
        session.execute(insert(DagRun.__table__).values(run))
    for number in range(count):
        ti_id, nonce, task_id = uuid7(), secrets.token_hex(16), f"task-{number}"
        row = {**ti, "id": ti_id, "task_id": task_id}
        with create_session() as session:
            session.execute(insert(TaskInstance.__table__).values(row))
            scope = TaskScope(**key, task_id=task_id, map_index=-1)
            digest = json.dumps(hashlib.sha256(nonce.encode()).hexdigest())
            get_state_backend().set(scope, COMMITMENT_KEY, digest, session=session)
        done = register(database, Claimant.of(str(ti_id), nonce), lambda: wanted, now)
        token = generator.generate(extras={"sub": str(ti_id), "scope": "execution"}, valid_for=3600)
        keys = (done.secrets.job, done.secrets.task)
        targets.append(Target(str(ti_id), token, done.action.id, *keys))
    return targets


if __name__ == "__main__":
    main()
