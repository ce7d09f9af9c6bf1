# SPDX-License-Identifier: Apache-2.0
"""``make bench-files``: file transfers through the API server compared with nginx, and directly to S3."""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from airflow_asyncaction.protocol.digests import Digests, digests
from airflow_asyncaction.protocol.job_info import JobInfo
from airflow_asyncaction.protocol.signing import Content, signed_headers
from benchmarks.load import Load, Steps, measure
from benchmarks.nginx import NoNginx, find_nginx, nginx
from benchmarks.reports import http_request, jobs_of, make_targets, report_load, signed_request
from benchmarks.usage import Usage
from dev.deployment import Deployment
from dev.postgres import Postgres
from dev.s3 import S3Server

MIB = 1024 * 1024
BIG_MIB = 1024
SMALL_BYTES = 10 * 1024
SMALL_FILES = 1000
S3_MIB = (8, 512)
CONNECTIONS = 16
_ROUNDS = 3


def main() -> int:
    """Run the benchmark and print the results."""
    try:
        find_nginx()
    except NoNginx as error:
        print(error)
        return 1
    with tempfile.TemporaryDirectory() as folder, Postgres(durable=True) as postgres, S3Server() as s3:
        s3.create_bucket("lake")
        home = Path(folder)
        stores = {"default": (home / "store").as_uri(), "lake": "s3://aws_bench@lake/files"}
        with Deployment(
            home / "airflow",
            dags=[Path(__file__).with_name("dags")],
            database_url=postgres.create("airflow"),
            config={
                "asyncaction": {
                    "max_requests_per_second": "0",
                    "max_bytes_per_second": "0",
                    "file_stores": json.dumps(stores),
                }
            },
            environ={"AIRFLOW_CONN_AWS_BENCH": s3.connection},
        ) as airflow:
            for process in (airflow.scheduler, airflow.dag_processor, airflow.triggerer):
                process.kill()  # they would compete with the load
            jobs = jobs_of(airflow, make_targets(airflow, CONNECTIONS))
            assert airflow.api_server.pid is not None
            usage = Usage(airflow.api_server.pid)
            _small_files(jobs)
            with nginx(home / "nginx") as nginx_url:
                _big_files(jobs[0], usage, nginx_url, home / "big.bin")
            _s3(jobs[0], usage, home / "s3.bin")
    return 0


def _small_files(jobs: Sequence[JobInfo]) -> None:
    """Upload small files with distinct contents, compared with status reports."""
    contents = [os.urandom(SMALL_BYTES) for _ in range(SMALL_FILES)]
    per_connection = SMALL_FILES // CONNECTIONS

    def upload(connection: int, number: int) -> Steps:
        job, content = jobs[connection], contents[connection * per_connection + number]
        path = f"/upload/default/{job.job_id}/small"
        announcement = signed_request(job, "PUT", path, _announcement(f"{number}", digests([content])))
        return _announce_and_send(announcement, content)

    address = urlsplit(jobs[0].hook_url)
    load = Load(str(address.hostname), address.port or 80, upload, CONNECTIONS, per_connection)
    measure(report_load(jobs, CONNECTIONS))  # warm-up
    reports, files = measure(report_load(jobs, CONNECTIONS)), measure(load)
    print(
        f"\n{per_connection * CONNECTIONS} files of 10 KiB, {CONNECTIONS} connections, announced and sent\n"
    )
    print(f"our signed report   {reports}")
    print(f"a file              {files}")
    print(f"ratio               {files.requests_per_second / reports.requests_per_second:8.2f} x")


def _announce_and_send(announcement: bytes, content: bytes) -> Steps:
    answer = yield announcement
    url = urlsplit(json.loads(answer)["url"])
    yield http_request("PUT", url.path, url.netloc, {}, content)


def _big_files(job: JobInfo, usage: Usage, nginx_url: str, path: Path) -> None:
    """Upload and download 1 GiB, alternating with nginx."""
    with path.open("wb") as file:
        for _ in range(BIG_MIB):
            file.write(os.urandom(MIB))
    rates: dict[str, list[float]] = {"nginx PUT": [], "our PUT": [], "nginx GET": [], "our GET": []}
    growths = []
    for number in range(_ROUNDS + 1):
        url = _announced(job, "default", path)["url"]
        nginx_put = _curl("--upload-file", str(path), f"{nginx_url}/big.bin")
        with usage.growth() as growth:
            our_put = _curl("--upload-file", str(path), url)
            location = _send(job, "GET", f"/download/default/{job.job_id}/file/{number}")["Location"]
            our_get = _curl(location)
        nginx_get = _curl(f"{nginx_url}/big.bin")
        if number > 0:  # the first run is a warm-up
            growths.append(growth.rss_bytes / MIB)
            for name, rate in zip(rates, (nginx_put, our_put, nginx_get, our_get), strict=True):
                rates[name].append(rate / MIB)
    print(
        f"\n{BIG_MIB} MiB through one api-server worker, local folder; median of {_ROUNDS} rounds in turns\n"
    )
    medians = {name: statistics.median(each) for name, each in rates.items()}
    for verb in ("PUT", "GET"):
        theirs, ours = medians[f"nginx {verb}"], medians[f"our {verb}"]
        print(f"nginx {verb}   {theirs:7.0f} MiB/s")
        print(f"our {verb}     {ours:7.0f} MiB/s   ratio {ours / theirs:.2f} x")
    print(f"the api-server's memory grew by {max(growths):.0f} MiB at the most")


def _s3(job: JobInfo, usage: Usage, path: Path) -> None:
    """Upload and download a small and a large file on S3: the API server signs URLs and checks checksums."""
    print("\nTo S3 and back by pre-signed URLs (moto's server)\n")
    for number, size_mib in enumerate((S3_MIB[0], *S3_MIB)):
        with path.open("wb") as file:
            for _ in range(size_mib):
                file.write(os.urandom(MIB))
        before, began_at = usage.cpu_seconds(), time.monotonic()
        upload = _announced(job, "lake", path)
        _curl("--upload-file", str(path), upload["url"])
        _send(job, "POST", f"/upload/lake/{job.job_id}/file/{upload['index']}/complete")
        _curl(_send(job, "GET", f"/download/lake/{job.job_id}/file/{upload['index']}")["Location"])
        if number > 0:  # the first run is a warm-up
            used, seconds = usage.cpu_seconds() - before, time.monotonic() - began_at
            idle = usage.cpu_seconds()
            time.sleep(seconds)
            idle = usage.cpu_seconds() - idle
            print(
                f"{size_mib:5d} MiB in {seconds:4.1f} s   CPU of the api-server {1000 * used:4.0f} ms,"
                f" of an idle one in that time {1000 * idle:4.0f} ms"
            )


def _announced(job: JobInfo, store: str, path: Path) -> dict[str, Any]:
    """Change a file's content and announce it."""
    with path.open("r+b") as file:
        file.write(secrets.token_bytes(16))
    with path.open("rb") as file:
        found = digests(iter(lambda: file.read(MIB), b""))
    body = _announcement(secrets.token_hex(8), found)
    return _send(job, "PUT", f"/upload/{store}/{job.job_id}/file", body)


def _announcement(name: str, found: Digests) -> bytes:
    fields = {"hash": found.md5, "challenge": found.challenge, "sha256": found.sha256}
    return json.dumps({**fields, "size": found.size_bytes, "name": name, "metadata": {}}).encode()


def _send(job: JobInfo, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
    content = Content(method, path, body=body)
    headers = signed_headers(job, content, time_ms=int(time.time() * 1000), nonce=secrets.token_urlsafe(18))
    answer = requests.request(method, job.hook_url + path, data=body, headers=headers, timeout=600)
    answer.raise_for_status()
    fields = answer.json()
    assert isinstance(fields, dict)
    return fields


def _curl(*arguments: str) -> float:
    """Run curl; return its throughput in bytes per second."""
    format_ = "%{speed_upload} %{speed_download}"
    quiet = ["--silent", "--show-error", "--fail", "--header", "Expect:", "--output", os.devnull]
    command = ["curl", *quiet, "--write-out", format_, *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return max(map(float, printed.split()))


if __name__ == "__main__":
    sys.exit(main())
