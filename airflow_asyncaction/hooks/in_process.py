# SPDX-License-Identifier: Apache-2.0
"""In-process server: serves the job routes where no API server runs.

In ``dag.test()`` and ``airflow tasks test`` the task process is all of Airflow, including the database, and
serves the routes from a thread.
"""

from __future__ import annotations

import atexit
import threading
from functools import cache
from importlib import import_module
from urllib.parse import urlsplit

from airflow_asyncaction import route_urls, settings
from airflow_asyncaction.airflow_internals.worker.task_process import is_in_process
from airflow_asyncaction.protocol.job_info import JobId

# Server code in a worker module: imported by name, as only this case has both in one process.
_APP = "airflow_asyncaction.web.app"
_REQUEST = "airflow_asyncaction.web.raw_request"
_TASKS_TEST = "airflow_asyncaction.store.temporary_runs"

_registered: list[JobId] = []
"""Actions that this process registered, if it is all of Airflow."""


def hook_url() -> str:
    """Return the URL of the job routes for jobs on this machine."""
    return _serve() if is_in_process() else route_urls.configured_hook_url()


def task_url() -> str:
    """Return the URL of the task routes for this task."""
    return _serve() if is_in_process() else route_urls.configured_task_url()


def remote_hook_url() -> str:
    """Return the URL of the job routes for jobs on other machines, such as pods."""
    host = settings.load().test_host
    if not host or not is_in_process():
        return hook_url()
    return f"http://{_url_host(host)}:{urlsplit(_serve()).port}"


def note_registered(action_id: JobId) -> None:
    """Remember an action, to delete it if ``airflow tasks test`` deletes the Dag run that it created."""
    if is_in_process():
        _registered.append(action_id)


def _delete_without_run() -> None:
    if _registered:
        import_module(_TASKS_TEST).delete_without_run(_registered)


@cache
def _serve() -> str:
    """Start the server, which runs until the process ends, and return its URL."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: object) -> None:
            """Keep requests out of the task log."""

    app = import_module(_APP).create_app(hook_url=import_module(_REQUEST).requested_hook_url)
    here, everywhere = ("::1", "::") if ":" in settings.load().test_host else ("127.0.0.1", "0.0.0.0")  # noqa: S104
    listen_at = everywhere if settings.load().test_host else here
    server = make_server(listen_at, 0, app, threaded=True, request_handler=Quiet)
    atexit.register(_delete_without_run)
    threading.Thread(target=server.serve_forever, name="asyncaction-server", daemon=True).start()
    return f"http://{_url_host(here)}:{server.server_port}"


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
