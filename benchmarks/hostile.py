# SPDX-License-Identifier: Apache-2.0
"""``make bench-hostile``: latency of Airflow's own UI and of other jobs during attacks.

Airflow's own ``GET /api/v2/version`` and another job's report are timed, first on an idle server and then
during each attack. The attackers run in another process.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import requests

from airflow_asyncaction.protocol.digests import digests
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.signing import Content, signed_headers
from benchmarks.attacks import MIB, attacks, going_on
from benchmarks.latency import TIMEOUT_SECONDS, Latency, measure_latency
from benchmarks.reports import jobs_of, make_targets
from benchmarks.usage import Usage
from dev.deployment import USER, Deployment
from dev.postgres import Postgres

_OPERATIONS = {"takes_any", "takes_unique_items", "takes_a_pattern", "takes_a_tree"}
_JOBS = 56


def main() -> int:
    """Run all attacks, or those whose name contains the given words, and print the results."""
    parser = argparse.ArgumentParser(prog="make bench-hostile")
    parser.add_argument("words", nargs="?", default="", help="in the names of the attacks to run")
    words = parser.parse_args().words
    dags = Path(__file__).with_name("hostile_dags")
    with (
        Postgres(durable=True) as postgres,
        tempfile.TemporaryDirectory() as home,
        Deployment(Path(home), dags=[dags], database_url=postgres.create("airflow")) as airflow,
    ):
        airflow.api.wait_for_dags(_OPERATIONS)
        for process in (airflow.scheduler, airflow.dag_processor, airflow.triggerer):
            process.kill()  # they would compete with the attackers
        _run(airflow, words)
    return 0


def _run(airflow: Deployment, words: str) -> None:
    first, *jobs = jobs_of(airflow, make_targets(airflow, _JOBS))
    assert airflow.api_server.pid is not None
    usage = Usage(airflow.api_server.pid)
    _measure(airflow, first)  # warm-up
    version, report = _measure(airflow, first)
    print(f"\n{'':46} GET /api/v2/version{'':21} another job's report")
    print(f"{'idle':46} {version.beside(version)}  {report.beside(report)}")
    address = urlsplit(airflow.base_url)
    content = _content_path(jobs[0])
    for attack in attacks(jobs, address.netloc, lambda: _token(airflow), content):
        if words not in attack.name:
            continue
        for request in attack.before:
            _send_once(address.netloc, request)
        with (
            usage.growth() as growth,
            going_on(attack, str(address.hostname), address.port or 80) as statuses,
        ):
            time.sleep(2)
            versions, reports = _measure(airflow, first)
        grown = f"memory +{growth.rss_bytes // MIB} MiB"
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
        print(
            f"{attack.name:46} {versions.beside(version)}  {reports.beside(report)}  {grown}  {answers}",
            flush=True,
        )
        time.sleep(2)


def _measure(airflow: Deployment, job: JobInfo) -> tuple[Latency, Latency]:
    """Time Airflow's own route and a job's report concurrently."""
    body = json.dumps({"statusDetails": {"progress": 5}}).encode()

    def report_headers() -> dict[str, str]:
        now_ms = time.time_ns() // 1_000_000
        return signed_headers(
            job, Content("POST", "/status", body=body), time_ms=now_ms, nonce=os.urandom(12).hex()
        )

    with ThreadPoolExecutor(2) as threads:
        version = threads.submit(measure_latency, airflow.base_url, "GET", "/api/v2/version")
        report = threads.submit(
            measure_latency, airflow.base_url, "POST", "/async/status", body, report_headers
        )
        return version.result(), report.result()


def _send_once(host: str, request: bytes) -> None:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT_SECONDS)
    connection.request(method, path, body, dict(line.split(": ", 1) for line in lines))
    answer = connection.getresponse()
    if answer.status != requests.codes.ok:
        raise RuntimeError(f"{method} {path} returned {answer.status}: {answer.read(300).decode()}")
    connection.close()


def _token(airflow: Deployment) -> str:
    body = {"username": USER, "password": airflow.password}
    answer = requests.post(f"{airflow.base_url}/auth/token", json=body, timeout=TIMEOUT_SECONDS)
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def _content_path(job: JobInfo) -> str:
    """Upload a file of 64 MiB; return the path of its content below the mount."""
    content = os.urandom(MIB) * 64
    found = digests([content])
    fields = {"hash": found.md5, "challenge": found.challenge, "size": found.size_bytes}
    path = f"/upload/default/{job.job_id}/big"
    url = _signed(job, "PUT", path, json.dumps(fields).encode())["url"]
    requests.put(url, data=content, timeout=TIMEOUT_SECONDS).raise_for_status()
    location = _signed(job, "GET", f"/download/default/{job.job_id}/big/0")["Location"]
    return urlsplit(location).path.removeprefix(urlsplit(job.hook_url).path)


def _signed(job: JobInfo, method: str, path: str, body: bytes = b"") -> dict[str, str]:
    now_ms = time.time_ns() // 1_000_000
    headers = signed_headers(
        job, Content(method, path, body=body), time_ms=now_ms, nonce=os.urandom(12).hex()
    )
    answer = requests.request(
        method, job.hook_url + path, data=body, headers=headers, timeout=TIMEOUT_SECONDS
    )
    answer.raise_for_status()
    fields: dict[str, str] = answer.json()
    return fields


if __name__ == "__main__":
    sys.exit(main())
