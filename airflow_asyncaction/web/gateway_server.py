# SPDX-License-Identifier: Apache-2.0
"""Gateway server: the process of ``airflow asyncaction gateway``, which runs uvicorn.

The command replaces itself by this program, to get rid of what Airflow's command line imported. With several
workers, this process only supervises them, and does not import Airflow. Each worker is a new Python process
with an app and database connections of its own.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

GRACE_SECONDS = 30
"""How long requests that arrived before SIGTERM may take."""

_APP = "airflow_asyncaction.web.gateway_server:load_app"
_KEEP_ALIVE_SECONDS = 75
_STARTUP_SECONDS = 60  # a worker that still imports on a busy machine is alive


def load_app() -> ASGIApp:
    """Return the app. uvicorn calls this in each worker, which imports Airflow only here."""
    from airflow_asyncaction.airflow_internals.server import lean_process

    lean_process.start_airflow()
    from airflow_asyncaction.web.gateway import Gateway

    gateway = Gateway()
    gateway.start()
    return gateway


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT, and then respond to all requests that have arrived."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(levelname)s - %(message)s")
    uvicorn.run(
        _APP,
        factory=True,
        host=options.host,
        port=options.port,
        workers=options.workers,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        log_config=None,  # Airflow configures logging
        access_log=False,  # the app has one
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_worker_healthcheck=_STARTUP_SECONDS,
    )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of the command, which sets all of them."""
    parser = argparse.ArgumentParser(prog="airflow asyncaction gateway")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--workers", required=True, type=int)
    parser.add_argument("--ssl-certfile")
    parser.add_argument("--ssl-keyfile")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
