# SPDX-License-Identifier: Apache-2.0
"""Creates deferred task instances that wait indefinitely, as load for a triggerer.

``python -m benchmarks.kube_waiting COUNT dates`` in the environment of a deployment: for a date far away, by
Airflow's own trigger. ``... COUNT pods NAMESPACE KUBECONFIG``: for pods that no scheduler gives a node.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

DAG_ID = "benchmark_many"
TASK_ID = "waiting"
NOBODY = "nobody"
"""Name of a scheduler that does not exist: pods stay pending."""

_AT_A_TIME = 2

MakeTrigger = Callable[[str], Any]
"""Takes the id of a running task instance; returns the trigger to defer it with."""


def main() -> None:
    """Create as many task instances as the arguments say."""
    count, kind, *where = sys.argv[1:]
    make_trigger = _date_trigger if kind == "dates" else _pods(*where)
    _make(int(count), make_trigger)


def _make(count: int, make_trigger: MakeTrigger) -> None:
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import insert

    now, run_id = datetime.now(UTC), f"benchmark-{secrets.token_hex(4)}"
    key = {"dag_id": DAG_ID, "run_id": run_id}
    run = {**key, "run_type": "manual", "run_after": now, "state": "running", "logical_date": now}
    task = {**key, "task_id": TASK_ID, "state": "running", "try_number": 1}
    task |= {"pool": "default_pool", "pool_slots": 1, "queue": "default", "priority_weight": 1}
    with create_session() as session:
        version = DagVersion.get_latest_version(DAG_ID, session=session)
        assert version is not None
        task["dag_version_id"] = version.id
        session.execute(insert(DagRun.__table__).values(run))

    def make(number: int) -> None:
        ti_id = _new_id()
        with create_session() as session:
            session.execute(
                insert(TaskInstance.__table__).values(**task, id=ti_id, map_index=number, start_date=now)
            )
        _defer(ti_id, make_trigger(str(ti_id)))

    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        list(threads.map(make, range(count)))


def _defer(ti_id: Any, trigger: Any) -> None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from sqlalchemy import update

    table = TaskInstance.__table__
    with create_session() as session:
        row = Trigger.from_object(trigger)
        session.add(row)
        session.flush()
        values = {"state": "deferred", "trigger_id": row.id, "next_method": "resume", "next_kwargs": {}}
        session.execute(update(table).where(table.c.id == ti_id).values(values))


def _date_trigger(_: str) -> Any:
    from airflow.providers.standard.triggers.temporal import DateTimeTrigger

    return DateTimeTrigger(datetime.now(UTC) + timedelta(days=365))


def _pods(namespace: str, kubeconfig: str) -> MakeTrigger:
    from airflow import settings as airflow_settings
    from kubernetes import client as k8s
    from kubernetes import config as kube_config

    from airflow_asyncaction import route_urls
    from airflow_asyncaction.hooks.task import TaskHook
    from airflow_asyncaction.protocol.job_info import JobInfo
    from airflow_asyncaction.protocol.tasks import ActionSpec, Deferral, NeedsWorker, TaskCredentials
    from airflow_asyncaction.store.database import Database
    from airflow_asyncaction.store.registration import Claimant, RegistrationRequest, register
    from airflow_asyncaction.triggers.pods.trigger import PodActionTrigger

    database = Database(airflow_settings.get_engine())
    core = k8s.CoreV1Api(kube_config.new_client_from_config(config_file=kubeconfig))
    base_url = route_urls.configured_hook_url()

    def make_trigger(ti_id: str) -> PodActionTrigger:
        nonce = _commit(ti_id)
        wanted = RegistrationRequest(ActionSpec(type="benchmark", runner="kubernetes", adoptable=True))
        done = register(database, Claimant.of(ti_id, nonce), lambda: wanted, datetime.now(UTC))
        info = JobInfo(job_id=done.action.id, secret_key=done.secrets.job, hook_url=base_url)
        task = TaskCredentials(done.action.id, done.secrets.task)
        TaskHook(base_url).defer(task, Deferral(needs_worker=NeedsWorker.ON_FAILURE))
        return PodActionTrigger(
            action_id=info.job_id,
            ti_id=ti_id,
            pod=_create_pod(core, namespace, info, task.secret_key),
            container="base",
            cluster={
                "conn_id": "kubernetes_default",
                "in_cluster": None,
                "cluster_context": None,
                "config_file": None,
            },
            log=["", 0],
            after_line=0,
            get_logs=True,
            stop_grace_seconds=10,
            start_by_ms=None,
            on_finish="delete_pod",
            keep_on_kill=False,
            skip_on_exit_code=[],
        )

    return make_trigger


def _commit(ti_id: str) -> str:
    """Store the commitment to a nonce as the task does; return the nonce."""
    import hashlib
    import json

    from airflow.models.taskinstance import TaskInstance
    from airflow.state import TaskScope, get_state_backend
    from airflow.utils.session import create_session

    from airflow_asyncaction.protocol.tasks import COMMITMENT_KEY

    nonce = secrets.token_hex(16)
    with create_session() as session:
        task = session.get_one(TaskInstance, ti_id)
        scope = TaskScope(
            dag_id=task.dag_id, run_id=task.run_id, task_id=task.task_id, map_index=task.map_index
        )
        digest = json.dumps(hashlib.sha256(nonce.encode()).hexdigest())
        get_state_backend().set(scope, COMMITMENT_KEY, digest, session=session)
    return nonce


def _create_pod(core: Any, namespace: str, info: Any, task_key: str) -> dict[str, str]:
    """Create a pod and its Secret as a worker does; return its location."""
    from kubernetes import client as k8s

    from airflow_asyncaction.runners.pods.spec import add_job, build_job_secret

    container = k8s.V1Container(name="base", image="busybox", command=["true"])
    pod = k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name=f"waiting-{secrets.token_hex(6)}", namespace=namespace, labels={}),
        spec=k8s.V1PodSpec(containers=[container], scheduler_name=NOBODY, restart_policy="Never"),
    )
    add_job(pod, info, task_key=task_key, secret_in_env=False, on_finish="delete_pod")
    created = core.create_namespaced_pod(namespace, pod)
    core.create_namespaced_secret(namespace, build_job_secret(created, info, task_key=task_key))
    return {"name": created.metadata.name, "namespace": namespace, "uid": created.metadata.uid}


def _new_id() -> Any:
    from uuid6 import uuid7

    return uuid7()


if __name__ == "__main__":
    main()
