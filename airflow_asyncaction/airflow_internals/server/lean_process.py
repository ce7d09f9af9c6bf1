# SPDX-License-Identifier: Apache-2.0
"""Lean process: starts Airflow in a server process without imports that such a process does not need.

Uses: ``airflow.sdk.log.mask_secret``, ``airflow._shared.logging.structlog``, ``_AIRFLOW_PROCESS_CONTEXT``.

Checked with Airflow 3.3.2 and 3.4.0b2.

When Airflow starts, it tries to import several modules, and goes on without them if that fails:

- the task runner of the Task SDK, to tell the supervisor of a task about secrets in the configuration. It
  imports operators, the client of the Execution API and Dag bundles: 23 MiB
- ``rich``, for tracebacks in development, ``httpx`` and ``httpcore``, to shorten them, ``isoduration``, to
  validate durations, and ``psutil``, for one of OpenTelemetry's resource detectors: 9 MiB

This module does not import Airflow itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TASK_RUNNER = "airflow.sdk.execution_time.task_runner"
_OPTIONAL = ("rich", "httpx", "httpcore", "isoduration", "psutil")


def start_airflow() -> None:
    """Import and initialize Airflow. Importing the task runner fails from now on: this process runs no task.

    Connections are read from the metadata database, as in Airflow's own servers.
    """
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    sys.modules.setdefault(_TASK_RUNNER, None)  # type: ignore[arg-type] # documented: its import fails
    with _forbidden(name for name in _OPTIONAL if name not in sys.modules):
        import airflow  # noqa: F401 - initializes itself


@contextmanager
def _forbidden(names: Iterator[str]) -> Iterator[None]:
    """Make imports of these modules fail in the block."""
    modules = dict.fromkeys(names)
    sys.modules.update(modules)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
