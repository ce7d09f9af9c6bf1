# SPDX-License-Identifier: Apache-2.0
"""Airflow REST API: called in this process on behalf of a user, to create and fail Dag runs.

This way Airflow's own permissions, limits and audit log apply. ``cli.actions`` does the same without an
API server.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any
from urllib.parse import quote

import httpx
from flask import Request

from airflow_asyncaction.exceptions import StoreUnavailable, UserRefused
from airflow_asyncaction.protocol.actions import iso_time
from airflow_asyncaction.store.launching import WantedRun
from airflow_asyncaction.store.listing import ActionRecord
from airflow_asyncaction.web.wsgi_adapter import LOOP

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 60.0
_CREDENTIAL_HEADERS = ("authorization", "cookie")


def create_run(request: Request, run: WantedRun) -> None:
    """Create a Dag run unless it exists.

    :param request: request of the user who launches it
    :raises UserRefused: Airflow refuses; the message has its reason
    """
    body = {
        "dag_run_id": run.run_id,
        "logical_date": None,
        "run_after": iso_time(run.run_after),
        "conf": run.conf,
    }
    response = _call(request, "POST", _path("dags", run.dag_id, "dagRuns"), body)
    if response.status_code != httpx.codes.CONFLICT:
        _check(response)


def try_to_fail_run(request: Request, action: ActionRecord) -> None:
    """Mark the Dag run of an action as failed. If Airflow refuses, only log it."""
    path = _path("dags", action.dag_id, "dagRuns", action.row.run_id)
    try:
        _check(_call(request, "PATCH", path, {"state": "failed"}))
    except (UserRefused, StoreUnavailable) as error:
        log.info("The Dag run of stopped action %s continues: %s", action.id, error)


def fail_task(request: Request, action: ActionRecord) -> None:
    """Mark the task instance of an action as failed, so that it is not retried.

    :raises UserRefused: Airflow refuses; the message has its reason
    """
    row = action.row
    task = ("taskInstances", row.task_id, row.map_index)
    path = _path("dags", row.dag_id, "dagRuns", row.run_id, *task)
    body: dict[str, Any] = {"new_state": "failed"}
    if row.region_id is not None:
        index = row.iteration if row.map_index < 0 else row.map_index
        body |= {"region_id": str(row.region_id), "region_index": index}
    _check(_call(request, "PATCH", path, body))


def _path(*parts: object) -> str:
    return "/api/v2" + "".join(f"/{quote(str(part), safe='')}" for part in parts)


def _call(request: Request, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
    loop = request.environ.get(LOOP)
    app = (request.environ.get("asgi.scope") or {}).get("app")
    if loop is None or app is None:
        raise UserRefused("Only Airflow's API server can launch operations", code="no_airflow")
    headers = {name: request.headers[name] for name in _CREDENTIAL_HEADERS if name in request.headers}

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            return await client.request(method, path, json=body, headers=headers)

    try:
        return asyncio.run_coroutine_threadsafe(send(), loop).result(_TIMEOUT_SECONDS)
    except FutureTimeout:
        message = f"Airflow's API did not respond within {_TIMEOUT_SECONDS:g} s. Retry later"
        raise StoreUnavailable(message) from None


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        detail = response.json().get("detail")
    except (ValueError, AttributeError):
        detail = None
    reason = detail or response.reason_phrase
    message = f"Airflow refused the request ({response.status_code}): {reason}"
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise UserRefused(message, code="forbidden")
    if response.is_server_error:
        raise StoreUnavailable(f"Airflow's API failed ({response.status_code}): {reason}. Retry later")
    raise UserRefused(message, code="run_refused")
