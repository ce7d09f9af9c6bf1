# SPDX-License-Identifier: Apache-2.0
"""Gateway processes, started by their command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests

from airflow_asyncaction import settings
from dev.processes import free_ports

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Gateway:
    """A running gateway.

    :param url: without the path of the routes
    :param log: its log file
    """

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def hook(self) -> str:
        """URL of the routes."""
        return self.url + settings.load().url

    def logged(self) -> str:
        """Return what it has logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait()

    def wait_until_ready(self) -> None:
        """Wait until it serves jobs."""
        while True:
            assert self.process.poll() is None, self.logged()[-5000:]
            with suppress(requests.ConnectionError):
                if requests.get(f"{self.url}/readyz", timeout=30).ok:
                    return
            time.sleep(0.1)


@contextmanager
def gateway(
    database_url: str, log: Path, *options: str, environ: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """Run ``airflow asyncaction gateway`` on a database until it is ready, and kill it at the end.

    :param options: of the command
    """
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = ["asyncaction", "gateway", "--host", "127.0.0.1", "--port", str(port), *options]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "airflow", *command],
            env={
                **os.environ,
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url,
                "AIRFLOW__ASYNCACTION__BASE_URL": url + settings.load().url,
                "PYTHONPATH": str(_ROOT),
                **(environ or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        started = Gateway(url, log, process)
        try:
            started.wait_until_ready()
            yield started
        finally:
            process.kill()
