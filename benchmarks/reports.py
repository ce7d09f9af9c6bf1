# SPDX-License-Identifier: Apache-2.0
"""Reports per second of a real API server, compared with Airflow's task heartbeat and bare PostgreSQL."""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.signing import Content, signed_headers
from benchmarks.load import Load, Measured, measure
from benchmarks.pgbench import Pgbench
from benchmarks.targets import HOSTNAME, PID, Target
from benchmarks.usage import Usage
from dev.deployment import Deployment
from dev.postgres import Postgres

CONNECTIONS = (1, 16, 64)
_WARM_UP_REQUESTS = 40
_ROUNDS = 3
HEARTBEAT_BODY = json.dumps({"hostname": HOSTNAME, "pid": PID}).encode()


def run(postgres: Postgres, airflow: Deployment) -> None:
    """Run the benchmark and print the table."""
    targets = make_targets(airflow, max(CONNECTIONS))
    jobs = jobs_of(airflow, targets)

    for load in (heartbeat_load(airflow, targets, 16), report_load(jobs, 16)):
        measure(shortened(load))
    pgbench = Pgbench(postgres, airflow.database_url)
    usage = Usage(airflow.api_server.pid or 0)
    print("\nInto one api-server worker on PostgreSQL; each connection waits for its answer;")
    print(f"the median of {_ROUNDS} rounds, in turns\n")
    for connections in CONNECTIONS:
        rounds = [
            Round(
                served(usage, heartbeat_load(airflow, targets, connections)),
                served(usage, report_load(jobs, connections)),
                pgbench.measure(connections) if pgbench.is_installed else None,
            )
            for _ in range(_ROUNDS)
        ]
        _print(connections, rounds)
    if not pgbench.is_installed:
        print("pgbench is not there (Debian: apt install postgresql): left out")


@dataclass(frozen=True)
class Served:
    """Result of a load.

    :param cpu_ms: the server's CPU time per request
    """

    measured: Measured
    cpu_ms: float

    def __str__(self) -> str:
        return f"{self.measured}   CPU {self.cpu_ms:6.2f} ms"


@dataclass(frozen=True)
class Round:
    """Results of one round.

    :param pgbench: transactions per second; ``None`` without pgbench
    """

    heartbeats: Served
    reports: Served
    pgbench: float | None


def served(usage: Usage, load: Load) -> Served:
    """Measure a load, and the CPU time that each request costs a server."""
    before = usage.cpu_seconds()
    measured = measure(load)
    return Served(measured, 1000 * (usage.cpu_seconds() - before) / (load.connections * load.requests))


def _print(connections: int, rounds: Sequence[Round]) -> None:
    ours = median([one.reports for one in rounds])
    compare(connections, median([one.heartbeats for one in rounds]), ours)
    compare_with_pgbench(connections, [one.pgbench for one in rounds if one.pgbench is not None], ours)


def compare(connections: int, theirs: Served, ours: Served) -> None:
    """Print the results of heartbeats and reports, and their ratios."""
    label = f"{connections:3} connections  "
    print(f"{label} Airflow's task heartbeat    {theirs}")
    print(f"{label} our signed report           {ours}")
    print(f"{label} ratio                       {_ratio(ours, theirs)}")


def compare_with_pgbench(connections: int, rates: Sequence[float], ours: Served) -> None:
    """Print the median rate of pgbench, if it was measured, and the ratio of the reports' rate."""
    label = f"{connections:3} connections  "
    if rates:
        bare = statistics.median(rates)
        print(f"{label} pgbench, same transaction   {bare:8.0f}/s")
        print(f"{label} ratio                       {ours.measured.requests_per_second / bare:8.2f} x")
    print()


def jobs_of(airflow: Deployment, targets: Sequence[Target]) -> list[JobInfo]:
    """Return the jobs of targets."""
    hook = airflow.base_url + "/async"
    return [JobInfo(job_id=JobId(one.job_id), secret_key=one.secret_key, hook_url=hook) for one in targets]


def heartbeat_path(target: Target) -> str:
    """Return the path of a task's heartbeat in Airflow's execution API."""
    return f"/execution/task-instances/{target.ti_id}/heartbeat"


def heartbeat_headers(target: Target) -> dict[str, str]:
    """Return the headers of a task's heartbeat."""
    return {"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"}


def heartbeat_load(airflow: Deployment, targets: Sequence[Target], connections: int) -> Load:
    """Return a load of task heartbeats, with a task for each connection."""
    address = urlsplit(airflow.base_url)

    def request(connection: int, _: int) -> bytes:
        target = targets[connection]
        path, headers = heartbeat_path(target), heartbeat_headers(target)
        return http_request("PUT", path, address.netloc, headers, HEARTBEAT_BODY)

    requests = _requests(connections) // 3
    return Load(str(address.hostname), address.port or 80, request, connections, requests)


def report_load(jobs: Sequence[JobInfo], connections: int) -> Load:
    """Return a load of status reports, with a job for each connection."""
    address = urlsplit(jobs[0].hook_url)

    def request(connection: int, number: int) -> bytes:
        return signed_request(jobs[connection], "POST", "/status", _report(number))

    return Load(str(address.hostname), address.port or 80, request, connections, _requests(connections))


def signed_request(job: JobInfo, method: str, path: str, body: bytes) -> bytes:
    """Return a freshly signed HTTP/1.1 request of a job."""
    address = urlsplit(job.hook_url)
    headers = signed_headers(
        job,
        Content(method, path, body=body),
        time_ms=int(time.time() * 1000),
        nonce=secrets.token_urlsafe(18),
    )
    return http_request(method, address.path + path, address.netloc, headers, body)


def http_request(method: str, path: str, host: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return an HTTP/1.1 request."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*head, "", ""]).encode() + body


def make_targets(airflow: Deployment, count: int) -> list[Target]:
    """Create running task instances, each with an action."""
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.targets", str(count)],
        env=airflow.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise RuntimeError(f"no targets could be made:\n{made.stderr[-3000:]}")
    return [Target(**json.loads(line)) for line in made.stdout.splitlines() if line.startswith("{")]


def median(rounds: Sequence[Served]) -> Served:
    """Return the round with the median rate, with the median of the CPU times."""
    ordered = sorted(rounds, key=lambda one: one.measured.requests_per_second)
    return Served(ordered[len(rounds) // 2].measured, statistics.median(one.cpu_ms for one in rounds))


def _ratio(ours: Served, theirs: Served) -> str:
    one, other = ours.measured, theirs.measured
    rate = one.requests_per_second / other.requests_per_second
    p50, p99 = one.p50_ms / other.p50_ms, one.p99_ms / other.p99_ms
    cpu = ours.cpu_ms / theirs.cpu_ms
    return f"{rate:8.1f} x   p50 {p50:7.2f} x    p99 {p99:7.2f} x    CPU {cpu:6.2f} x"


def _requests(connections: int) -> int:
    """Return the number of requests of each connection, for a few seconds."""
    return max(60, 2400 // connections) if connections > 1 else 1200


def shortened(load: Load) -> Load:
    """Return a load with few requests, to warm up."""
    return Load(load.host, load.port, load.make_request, load.connections, _WARM_UP_REQUESTS)


def _report(number: int) -> bytes:
    lines = [f"line {number}: loading", f"line {number}: loaded"]
    report: dict[str, Any] = {
        "status": "RUNNING",
        "statusDetails": {"progress": number % 101, "message": "loading"},
        "logs": lines,
    }
    return json.dumps(report).encode()
