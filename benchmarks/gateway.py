# SPDX-License-Identifier: Apache-2.0
"""Gateway: reports per second, memory, and what the API server notices of its full load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import requests

from airflow_asyncaction.protocol.job_info import JobInfo
from benchmarks.latency import TIMEOUT_SECONDS, Latency, measure_latency
from benchmarks.load import Load, measure
from benchmarks.pgbench import Pgbench
from benchmarks.reports import (
    HEARTBEAT_BODY,
    Served,
    compare,
    compare_with_pgbench,
    heartbeat_headers,
    heartbeat_load,
    heartbeat_path,
    jobs_of,
    make_targets,
    median,
    report_load,
    served,
    shortened,
)
from benchmarks.targets import Target
from benchmarks.usage import Usage
from dev.deployment import Deployment
from dev.postgres import Postgres
from dev.processes import Process, free_ports, stop

CONNECTIONS = (16, 64)
_ROUNDS = 3
_MIB = 1024 * 1024


def run(postgres: Postgres, airflow: Deployment) -> None:
    """Run the benchmark and print the tables."""
    first, *targets = make_targets(airflow, max(CONNECTIONS) + 1)
    jobs, pgbench = jobs_of(airflow, targets), Pgbench(postgres, airflow.database_url)
    print(f"\nInto a gateway on PostgreSQL; the median of {_ROUNDS} rounds, in turns\n")
    one_worker: dict[int, Served] = {}
    with running_gateway(airflow, workers=1) as (url, process):
        mine = [replace(job, hook_url=f"{url}/async") for job in jobs]
        measure(shortened(report_load(mine, 16)))
        for connections in CONNECTIONS:
            one_worker[connections] = _compare(airflow, targets, mine, connections, process, pgbench)
        print(f"memory of the worker after the load    {_usage(process).rss_bytes() / _MIB:6.0f} MiB\n")
        _watch_api_server(airflow, first, mine)
    with running_gateway(airflow, workers=2) as (url, process):
        mine = [replace(job, hook_url=f"{url}/async") for job in jobs]
        measure(shortened(report_load(mine, 16)))
        for connections, one in one_worker.items():
            two = median([served(_usage(process), report_load(mine, connections)) for _ in range(_ROUNDS)])
            ratio = two.measured.requests_per_second / one.measured.requests_per_second
            print(f"{connections:3} connections   two workers     {two}   {ratio:.2f} x one worker")


@contextmanager
def running_gateway(airflow: Deployment, *, workers: int) -> Iterator[tuple[str, Process]]:
    """Run ``airflow asyncaction gateway`` until it is ready. Yield its URL and its process."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    process = Process(
        "gateway",
        [str(airflow.python), "-m", "airflow", "asyncaction", "gateway", *options],
        environ={**airflow.environ, "AIRFLOW__ASYNCACTION__BASE_URL": f"{url}/async"},
        log=airflow.home / "gateway.log",
    )
    process.start()
    try:
        _wait_until_ready(url, process)
        yield url, process
    finally:
        stop([process], grace_seconds=TIMEOUT_SECONDS)


def _wait_until_ready(url: str, process: Process) -> None:
    while process.is_running:
        with suppress(requests.ConnectionError):
            if requests.get(f"{url}/readyz", timeout=TIMEOUT_SECONDS).ok:
                return
        time.sleep(0.2)
    raise RuntimeError(f"The gateway ended:\n{process.log.read_text()[-3000:]}")


def _compare(
    airflow: Deployment,
    targets: Sequence[Target],
    jobs: Sequence[JobInfo],
    connections: int,
    process: Process,
    pgbench: Pgbench,
) -> Served:
    """Compare reports into the gateway with heartbeats into the API server. Return the reports' result."""
    api_server, gateway = Usage(airflow.api_server.pid or 0), _usage(process)
    heartbeats, reports, bare = [], [], []
    for _ in range(_ROUNDS):
        heartbeats.append(served(api_server, heartbeat_load(airflow, targets, connections)))
        reports.append(served(gateway, report_load(jobs, connections)))
        if pgbench.is_installed:
            bare.append(pgbench.measure(connections))
    theirs, ours = median(heartbeats), median(reports)
    compare(connections, theirs, ours)
    compare_with_pgbench(connections, bare, ours)
    return ours


def _watch_api_server(airflow: Deployment, target: Target, jobs: Sequence[JobInfo]) -> None:
    """Print the latency of Airflow's own routes, idle and while the gateway takes its full load."""
    _latencies(airflow, target)  # warm-up
    idle = _latencies(airflow, target)
    with _going_on(report_load(jobs, max(CONNECTIONS))):
        time.sleep(2)
        loaded = _latencies(airflow, target)
    print(f"{'API server':26} {'GET /api/v2/version':40} task heartbeat")
    print(f"{'idle':26} {idle[0].beside(idle[0]):40} {idle[1].beside(idle[1])}")
    print(f"{'the gateway is loaded':26} {loaded[0].beside(idle[0]):40} {loaded[1].beside(idle[1])}\n")


def _latencies(airflow: Deployment, target: Target) -> tuple[Latency, Latency]:
    version = measure_latency(airflow.base_url, "GET", "/api/v2/version")
    heartbeat = measure_latency(
        airflow.base_url,
        "PUT",
        heartbeat_path(target),
        HEARTBEAT_BODY,
        lambda: heartbeat_headers(target),
    )
    return version, heartbeat


@contextmanager
def _going_on(load: Load) -> Iterator[None]:
    """Send a load again and again during the block."""
    is_over = threading.Event()

    def send() -> None:
        while not is_over.is_set():
            measure(load)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _usage(process: Process) -> Usage:
    return Usage(process.pid or 0)
