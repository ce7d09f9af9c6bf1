# SPDX-License-Identifier: Apache-2.0
"""Command ``airflow asyncaction gateway``."""

from __future__ import annotations

import os
import sys
from argparse import Namespace

# Server code, in another program: this process becomes it.
_SERVER = "airflow_asyncaction.web.gateway_server"


def gateway(args: Namespace) -> None:
    """Replace this process by the gateway, without the 100 MiB that Airflow's command line occupies."""
    if args.workers < 1:
        raise SystemExit("--workers must be at least 1")
    if bool(args.ssl_certfile) != bool(args.ssl_keyfile):
        raise SystemExit("--ssl-certfile and --ssl-keyfile must be used together")
    options = {
        "host": args.host,
        "port": args.port,
        "workers": args.workers,
        "ssl-certfile": args.ssl_certfile,
        "ssl-keyfile": args.ssl_keyfile,
    }
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    sys.stdout.flush()
    # -P: without it, Python would import modules from the working directory.
    os.execv(sys.executable, [sys.executable, "-P", "-m", _SERVER, *given])  # noqa: S606 - no shell
