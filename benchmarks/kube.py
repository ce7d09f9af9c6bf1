# SPDX-License-Identifier: Apache-2.0
"""``make bench-kube``: pods compared with KubernetesPodOperator(deferrable=True) on a real cluster.

``ARGS="times"``, ``"requests"`` or ``"triggerer"`` measures these alone. Each run is printed as it ends, and
one that fails is counted and repeated.
"""

from __future__ import annotations

import io
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from kubernetes import client as k8s

from benchmarks import kube_triggerer
from benchmarks.kube_requests import Requests, counted
from benchmarks.repeating import Repeater, RunFailed, run_parts
from dev.airflow_api import TaskKey
from dev.cluster import ACCOUNT, Cluster, ClusterError
from dev.deployment import Deployment
from dev.postgres import Postgres

SIDES = {"theirs": "KubernetesPodOperator", "ours": "KubeActionOperator"}
WAITING_PODS = 50
RUNS = 12

_CONFIG = {
    "asyncaction": {"max_requests_per_second": "0", "max_bytes_per_second": "0"},
    "core": {"dagbag_import_timeout": "300"},  # a slow machine starts many tasks at once
    "triggerer": {"capacity": "2500"},
}
_READ = re.compile(r"\b(FIRST|LAST) (\d+\.\d+)")
_SETTLE_SECONDS = 20


def main() -> int:
    """Run the benchmark and print the results."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # make's output may be a pipe
    try:
        with Cluster() as cluster:
            return 0 if _run(cluster, sys.argv[1:] or list(PARTS)) else 1
    except ClusterError as error:
        print(error)
        return 1


def _run(cluster: Cluster, parts: Sequence[str]) -> bool:
    _grant_what_theirs_needs(cluster)
    with (
        Postgres(durable=True) as postgres,
        tempfile.TemporaryDirectory() as home,
        Deployment(
            Path(home),
            dags=[Path(__file__).with_name("kube_dags")],
            database_url=postgres.create("airflow"),
            config=_CONFIG,
            environ=cluster.environ,
            pods_reach_us_at=cluster.host,
        ) as airflow,
    ):
        airflow.api.wait_for_dags({f"benchmark_{side}_timed" for side in SIDES})
        return run_parts({part: partial(PARTS[part], airflow, cluster) for part in parts})


def _grant_what_theirs_needs(cluster: Cluster) -> None:
    """Grant the right to read events, which KubernetesPodOperator needs beyond docs/kubernetes/rbac.yaml."""
    binding = {
        "metadata": {"name": "benchmark"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT}],
    }
    rbac = k8s.RbacAuthorizationV1Api(cluster.core.api_client)
    rbac.create_namespaced_role_binding(cluster.namespace, binding)


@dataclass(frozen=True)
class Timed:
    """Overhead around a container's own run time, in seconds."""

    before: float  # from the task's start to the container's first instruction
    after: float  # from the container's last instruction to the task's end


def _times(airflow: Deployment, _: Cluster) -> None:
    """Measure the duration of tasks beyond that of their containers."""
    timed: dict[str, list[Timed]] = {side: [] for side in SIDES}
    repeater = Repeater()
    print("\nTimes of tasks beside their containers' own\n")
    for number in range(RUNS + 1):
        for side, all_timed in timed.items():
            measure = partial(_timed, airflow, side, seconds=6 + number * 0.37 % 2)
            one = repeater.measure(SIDES[side], measure)
            took = f"{one.before:.2f} s before, {one.after:.2f} s after"
            print(f"{SIDES[side]:22} run {number:2} of {RUNS}: {took}")
            if number > 0:  # the first run is a warm-up
                all_timed.append(one)
    _print_times(timed)
    repeater.print_failures()


def _print_times(timed: Mapping[str, Sequence[Timed]]) -> None:
    for what, name in (
        ("From a task's start to its container's first instruction", "before"),
        ("From a container's last instruction to its task's end", "after"),
    ):
        print(f"\n{what}; p50 of {RUNS}, in turns\n")
        seconds = {side: [getattr(one, name) for one in timed[side]] for side in SIDES}
        for side, operator in SIDES.items():
            p50, least, most = statistics.median(seconds[side]), min(seconds[side]), max(seconds[side])
            print(f"{operator:22} {p50:6.2f} s   ({least:.2f} to {most:.2f} s)")
        theirs, ours = (statistics.median(seconds[side]) for side in SIDES)
        print(f"{'difference':22} {ours - theirs:6.2f} s   ratio {ours / theirs:.2f} x")


def _timed(airflow: Deployment, side: str, *, seconds: float) -> Timed:
    dag_id = f"benchmark_{side}_timed"
    run_id = airflow.api.trigger(dag_id, {"seconds": f"{seconds:.2f}"})
    state = airflow.api.wait_for_run(dag_id, run_id)
    key = TaskKey(dag_id, run_id, "pod")
    log = airflow.api.log_text(key)
    read = {name: float(at) for name, at in _READ.findall(log)}
    if state != "success" or set(read) != {"FIRST", "LAST"}:
        raise RunFailed(f"{run_id} of {dag_id} ended as {state}:\n{log[-4000:]}")
    task = airflow.api.task_instance(key)
    return Timed(read["FIRST"] - _unix(task["start_date"]), _unix(task["end_date"]) - read["LAST"])


def _requests(airflow: Deployment, cluster: Cluster) -> None:
    """Count the requests to the Kubernetes API while pods run."""
    print(f"\nRequests to the Kubernetes API while {WAITING_PODS} pods wait, per pod and minute\n")
    per_pod, repeater = {}, Repeater()
    with counted(cluster) as requests:
        for side, operator in SIDES.items():
            count = partial(_count_requests, airflow, cluster, requests, f"benchmark_{side}_waiting")
            per_pod[side] = repeater.measure(operator, count)
            print(f"{operator:22} {per_pod[side]:7.3f}")
    print(f"{'ratio':22} {per_pod['ours'] / per_pod['theirs']:7.4f} x")
    repeater.print_failures()


def _count_requests(airflow: Deployment, cluster: Cluster, requests: Requests, dag_id: str) -> float:
    """Return the number of requests per waiting pod and minute."""
    run_id = airflow.api.trigger(dag_id)
    try:
        _wait_until_all_wait(airflow, cluster, dag_id, run_id)
        time.sleep(_SETTLE_SECONDS)
        return requests.per_minute() / WAITING_PODS
    finally:
        _end_waiting(airflow, cluster, dag_id, run_id)


def _wait_until_all_wait(airflow: Deployment, cluster: Cluster, dag_id: str, run_id: str) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        states = [task["state"] for task in airflow.api.task_instances(dag_id, run_id)]
        pods = cluster.core.list_namespaced_pod(cluster.namespace).items
        running = sum(pod.status.phase == "Running" for pod in pods)
        if running == states.count("deferred") == WAITING_PODS:
            return
        if "failed" in states:
            raise RunFailed(f"a task of {run_id} of {dag_id} failed")
        time.sleep(2)
    raise RunFailed(f"not all tasks of {run_id} of {dag_id} wait after 10 minutes")


def _end_waiting(airflow: Deployment, cluster: Cluster, dag_id: str, run_id: str) -> None:
    airflow.api.set_run_state(dag_id, run_id, "failed")
    cluster.core.delete_collection_namespaced_pod(cluster.namespace, grace_period_seconds=0)
    while cluster.core.list_namespaced_pod(cluster.namespace).items:
        time.sleep(1)
    time.sleep(_SETTLE_SECONDS)


def _unix(time_of_day: str) -> float:
    return datetime.fromisoformat(time_of_day).timestamp()


PARTS = {"times": _times, "requests": _requests, "triggerer": kube_triggerer.run}


if __name__ == "__main__":
    sys.exit(main())
