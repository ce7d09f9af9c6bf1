# SPDX-License-Identifier: Apache-2.0
"""The job routes where no API server runs: ``dag.test()`` and ``airflow tasks test``.

There the task process is Airflow as a whole, database included, and serves them itself, from a thread.
"""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module

from airflow_asyncaction import settings

# Server code in a worker module: named, not imported, since only this one case has both in one process.
_APP_MODULE = "airflow_asyncaction.web.app"
_WIRE_MODULE = "airflow_asyncaction.web.wire"


def hook_url() -> str:
    """Return the URL of the job routes as this task and its job reach them."""
    return _serve() if is_in_process() else settings.hook_url()


def is_in_process() -> bool:
    """Tell whether this task runs in ``dag.test()`` or the like."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.supervisor import InProcessSupervisorComms

    return isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), InProcessSupervisorComms)


@cache
def _serve() -> str:
    """Serve until the process ends."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: object) -> None:
            """Leave the task log to the task."""

    app = import_module(_APP_MODULE).create_app(hook_url=import_module(_WIRE_MODULE).requested_hook_url)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, name="asyncaction-server", daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
