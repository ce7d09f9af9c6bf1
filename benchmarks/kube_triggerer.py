# SPDX-License-Identifier: Apache-2.0
"""CPU and memory of a triggerer with 2,000 waiting pods, compared with as many of Airflow's own triggers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, create_engine, text

from benchmarks.kube_requests import Requests, counted
from benchmarks.usage import Usage
from dev.cluster import Cluster
from dev.deployment import Deployment

WAITING = 2000
_SETTLE_SECONDS = 30
_KIB = 1024


@dataclass(frozen=True)
class Waiting:
    """Cost of waiting."""

    cpu_percent: float
    rss_bytes: int  # per waiting task
    api_requests: int
    kube_requests: float

    def __str__(self) -> str:
        return (
            f"CPU {self.cpu_percent:5.1f} % of a core   memory {self.rss_bytes / _KIB:6.1f} KiB each   "
            f"requests a minute: API server {self.api_requests}, Kubernetes API {self.kube_requests:.0f}"
        )


def run(airflow: Deployment, cluster: Cluster) -> None:
    """Run the benchmark and print a line for each kind of trigger."""
    for process in (airflow.scheduler, airflow.dag_processor):
        process.kill()  # nothing else may change these tasks or send requests
    print(f"\nA triggerer with {WAITING} deferred tasks while nothing happens, for a minute\n")
    pods = ("pods", cluster.namespace, str(cluster.kubeconfig))
    engine = create_engine(airflow.database_url)
    try:
        with counted(cluster) as requests:
            for name, kind in (("Airflow's DateTimeTrigger", ("dates",)), ("PodActionTrigger", pods)):
                print(f"{name:26} {_measure(airflow, requests, engine, kind)}")
    finally:
        engine.dispose()


def _measure(airflow: Deployment, requests: Requests, engine: Engine, kind: Sequence[str]) -> Waiting:
    _restart_without_work(airflow, engine)
    _make(airflow, engine, 1, kind)  # the first one loads modules
    time.sleep(_SETTLE_SECONDS)
    assert airflow.triggerer.pid is not None
    usage = Usage(airflow.triggerer.pid)
    rss_bytes = usage.rss_bytes()
    _make(airflow, engine, WAITING, kind)
    time.sleep(_SETTLE_SECONDS)
    usage = Usage(airflow.triggerer.pid)
    cpu_seconds, since, asked = usage.cpu_seconds(), time.monotonic(), _asked(airflow)
    kube_requests = requests.per_minute()
    seconds = time.monotonic() - since
    return Waiting(
        cpu_percent=100 * (usage.cpu_seconds() - cpu_seconds) / seconds,
        rss_bytes=(usage.rss_bytes() - rss_bytes) // WAITING,
        api_requests=_asked(airflow) - asked,
        kube_requests=kube_requests,
    )


def _make(airflow: Deployment, engine: Engine, count: int, kind: Sequence[str]) -> None:
    """Create deferred tasks and wait until the triggerer runs all of them."""
    command = [sys.executable, "-m", "benchmarks.kube_waiting", str(count), *kind]
    made = subprocess.run(command, env=airflow.environ, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise RuntimeError(f"no tasks could be made that wait:\n{made.stderr[-3000:]}")
    deadline = time.monotonic() + 600
    while _count(engine, "SELECT count(*) FROM trigger WHERE triggerer_id IS NULL"):
        if not airflow.triggerer.is_running or time.monotonic() > deadline:
            raise RuntimeError(f"the triggerer does not begin all triggers:\n{airflow.triggerer.tail()}")
        time.sleep(1)


def _restart_without_work(airflow: Deployment, engine: Engine) -> None:
    """Delete the previous tasks and restart the triggerer."""
    airflow.triggerer.terminate()
    airflow.triggerer.wait(60)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM task_instance"))
        connection.execute(text("DELETE FROM trigger"))
    airflow.triggerer.start()


def _asked(airflow: Deployment) -> int:
    """Return the number of requests to this package's routes in the API server's access log."""
    return airflow.api_server.log.read_text(errors="replace").count("path=/async/")


def _count(engine: Engine, query: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(query)).scalar_one())
