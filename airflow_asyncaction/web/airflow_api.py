# SPDX-License-Identifier: Apache-2.0
"""Airflow's own REST API, called in this process as who asks: with its permissions, limits and audit log."""

from __future__ import annotations

import asyncio
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any
from urllib.parse import quote

import httpx
from flask import Request

from airflow_asyncaction.exceptions import StoreUnavailable, UserRefused
from airflow_asyncaction.protocol.actions import iso_time
from airflow_asyncaction.store.launching import WantedRun
from airflow_asyncaction.store.listing import ActionRecord
from airflow_asyncaction.web.wsgi_adapter import LOOP

_TIMEOUT_SECONDS = 60.0
_PROOFS = ("authorization", "cookie")


def create_run(request: Request, run: WantedRun) -> None:
    """Create a Dag run, unless it is there already.

    :param request: whose sender's it is to be
    :raises UserRefused: Airflow refuses, and says why
    """
    body = {
        "dag_run_id": run.run_id,
        "logical_date": None,
        "run_after": iso_time(run.run_after),
        "conf": run.conf,
    }
    answer = _call(request, "POST", _path("dags", run.dag_id, "dagRuns"), body)
    if answer.status_code != httpx.codes.CONFLICT:
        _check(answer)


def fail_run(request: Request, action: ActionRecord) -> None:
    """Mark the Dag run of an action as failed.

    :raises UserRefused: Airflow refuses, and says why
    """
    path = _path("dags", action.dag_id, "dagRuns", action.row.run_id)
    _check(_call(request, "PATCH", path, {"state": "failed"}))


def fail_task(request: Request, action: ActionRecord) -> None:
    """Mark the task instance of an action as failed: it is not tried again.

    :raises UserRefused: Airflow refuses, and says why
    """
    row = action.row
    task = ("taskInstances", row.task_id, row.map_index)
    path = _path("dags", row.dag_id, "dagRuns", row.run_id, *task)
    _check(_call(request, "PATCH", path, {"new_state": "failed"}))


def _path(*parts: object) -> str:
    return "/api/v2" + "".join(f"/{quote(str(part), safe='')}" for part in parts)


def _call(request: Request, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
    loop = request.environ.get(LOOP)
    app = (request.environ.get("asgi.scope") or {}).get("app")
    if loop is None or app is None:
        raise UserRefused("Operations are launched by Airflow's API server alone", code="no_airflow")
    headers = {name: request.headers[name] for name in _PROOFS if name in request.headers}

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            return await client.request(method, path, json=body, headers=headers)

    try:
        return asyncio.run_coroutine_threadsafe(send(), loop).result(_TIMEOUT_SECONDS)
    except NoAnswer:
        raise StoreUnavailable from None


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        detail = answer.json().get("detail")
    except (ValueError, AttributeError):
        detail = None
    said = f"Airflow refuses ({answer.status_code}): {detail or answer.reason_phrase}"
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise UserRefused(said, code="forbidden")
    if answer.is_server_error:
        raise StoreUnavailable(said)
    raise UserRefused(said, code="run_refused")
