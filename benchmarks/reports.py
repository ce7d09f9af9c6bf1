# SPDX-License-Identifier: Apache-2.0
"""Reports per second of a real API server, compared with Airflow's task heartbeat and bare PostgreSQL."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow_asyncaction.protocol.job_info import JobId, JobInfo
from airflow_asyncaction.protocol.signing import Content, signed_headers
from benchmarks.load import Load, Measured, measure
from benchmarks.targets import HOSTNAME, PID, Target
from dev.deployment import Deployment
from dev.postgres import Postgres

CONNECTIONS = (1, 16, 64)
_WARM_UP_REQUESTS = 40
_ROUNDS = 3
_HEARTBEAT_BODY = json.dumps({"hostname": HOSTNAME, "pid": PID}).encode()


def run(postgres: Postgres, airflow: Deployment) -> None:
    """Run the benchmark and print the table."""
    targets = make_targets(airflow, max(CONNECTIONS))
    jobs = jobs_of(airflow, targets)

    def heartbeats(connections: int) -> Load:
        address = urlsplit(airflow.base_url)

        def request(connection: int, _: int) -> bytes:
            target = targets[connection]
            path = f"/execution/task-instances/{target.ti_id}/heartbeat"
            headers = {"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"}
            return http_request("PUT", path, address.netloc, headers, _HEARTBEAT_BODY)

        return Load(
            str(address.hostname), address.port or 80, request, connections, _requests(connections) // 3
        )

    def reports(connections: int) -> Load:
        return report_load(jobs, connections)

    for load in (heartbeats, reports):
        measure(_shortened(load(16)))
    print("\nInto one api-server worker on PostgreSQL; each connection waits for its answer;")
    print(f"the median of {_ROUNDS} rounds, in turns\n")
    for connections in CONNECTIONS:
        rounds = [(measure(heartbeats(connections)), measure(reports(connections))) for _ in range(_ROUNDS)]
        theirs, ours = (_median(measured) for measured in zip(*rounds, strict=True))
        print(f"{connections:3} connections   Airflow's task heartbeat   {theirs}")
        print(f"{connections:3} connections   our signed report          {ours}")
        print(f"{connections:3} connections   ratio                      {_ratio(ours, theirs)}\n")
    _pgbench(postgres, airflow.database_url)


def jobs_of(airflow: Deployment, targets: Sequence[Target]) -> list[JobInfo]:
    """Return the jobs of targets."""
    hook = airflow.base_url + "/async"
    return [JobInfo(job_id=JobId(one.job_id), secret_key=one.secret_key, hook_url=hook) for one in targets]


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


def _pgbench(postgres: Postgres, database_url: str) -> None:
    """Run a report's transaction in pgbench."""
    if not (postgres.bin / "pgbench").exists():
        print("pgbench is not there (Debian: apt install postgresql): left out")
        return
    script = Path(__file__).with_name("report.sql")
    for clients in (1, 16):
        options = ["-n", "-c", str(clients), "-j", "1", "-T", "5", "-M", "prepared", "-f", str(script)]
        printed = postgres.run("pgbench", *options, database_url.rpartition("/")[2]).stdout
        rate = next(line for line in printed.splitlines() if line.startswith("tps"))
        print(f"{clients:3} connections   pgbench, same transaction  {rate}")


def _median(rounds: Sequence[Measured]) -> Measured:
    return sorted(rounds, key=lambda one: one.requests_per_second)[len(rounds) // 2]


def _ratio(ours: Measured, theirs: Measured) -> str:
    rate = ours.requests_per_second / theirs.requests_per_second
    p50, p99 = ours.p50_ms / theirs.p50_ms, ours.p99_ms / theirs.p99_ms
    return f"{rate:8.1f} x   p50 {p50:7.2f} x    p99 {p99:7.2f} x"


def _requests(connections: int) -> int:
    """Return the number of requests of each connection, for a few seconds."""
    return max(60, 2400 // connections) if connections > 1 else 1200


def _shortened(load: Load) -> Load:
    return Load(load.host, load.port, load.make_request, load.connections, _WARM_UP_REQUESTS)


def _report(number: int) -> bytes:
    lines = [f"line {number}: loading", f"line {number}: loaded"]
    report: dict[str, Any] = {
        "status": "RUNNING",
        "statusDetails": {"progress": number % 101, "message": "loading"},
        "logs": lines,
    }
    return json.dumps(report).encode()
