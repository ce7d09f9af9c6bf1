# SPDX-License-Identifier: Apache-2.0
"""The job routes where no API server runs: ``dag.test()`` and ``airflow tasks test``.

There the task process is Airflow as a whole, database included, and serves them itself, from a thread.
"""

from __future__ import annotations

import atexit
import threading
from functools import cache
from importlib import import_module
from urllib.parse import urlsplit

from airflow_asyncaction import settings
from airflow_asyncaction.airflow_internals.worker.task_process import is_in_process
from airflow_asyncaction.protocol.job_info import JobId

# Server code in a worker module: named, not imported, since only this one case has both in one process.
_APP_MODULE = "airflow_asyncaction.web.app"
_WIRE_MODULE = "airflow_asyncaction.web.raw_request"
_TESTED_MODULE = "airflow_asyncaction.store.tasks_test"

_registered: list[JobId] = []
"""Actions of this process, where it is Airflow as a whole."""


def hook_url() -> str:
    """Return the URL of the job routes as this task and jobs on its machine reach them."""
    return _serve() if is_in_process() else settings.hook_url()


def remote_hook_url() -> str:
    """Return the URL of the job routes as jobs on other machines reach them, such as pods."""
    host = settings.load().test_host
    if not host or not is_in_process():
        return hook_url()
    return f"http://{_in_url(host)}:{urlsplit(_serve()).port}"


def note_registered(action_id: JobId) -> None:
    """Note an action, to delete it if ``airflow tasks test`` deletes the Dag run that it has created."""
    if is_in_process():
        _registered.append(action_id)


def _delete_without_run() -> None:
    if _registered:
        import_module(_TESTED_MODULE).delete_without_run(_registered)


@cache
def _serve() -> str:
    """Serve until the process ends."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: object) -> None:
            """Leave the task log to the task."""

    app = import_module(_APP_MODULE).create_app(hook_url=import_module(_WIRE_MODULE).requested_hook_url)
    here, everywhere = ("::1", "::") if ":" in settings.load().test_host else ("127.0.0.1", "0.0.0.0")  # noqa: S104
    listen_at = everywhere if settings.load().test_host else here
    server = make_server(listen_at, 0, app, threaded=True, request_handler=Quiet)
    atexit.register(_delete_without_run)
    threading.Thread(target=server.serve_forever, name="asyncaction-server", daemon=True).start()
    return f"http://{_in_url(here)}:{server.server_port}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
