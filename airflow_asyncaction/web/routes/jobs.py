# SPDX-License-Identifier: Apache-2.0
"""Routes of jobs (PROTOCOL.md, section 3). Each request is signed by its job."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from flask import Blueprint, Response, g, jsonify, request

from airflow_asyncaction.files.service import FileService
from airflow_asyncaction.protocol.actions import Action, action_to_json
from airflow_asyncaction.protocol.reports import Report
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store import metrics
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.proof import Credentials
from airflow_asyncaction.web.refusals import ReportRefused
from airflow_asyncaction.web.security import Caller, parse_signed_request


def jobs_blueprint(actions: Actions, files: FileService, settings: Settings) -> Blueprint:
    """Return the routes ``/status``, the hook URL itself and ``/job``."""
    blueprint = Blueprint("jobs", __name__)
    if metrics.is_enabled():
        blueprint.before_request(_start_clock)
        blueprint.after_request(_count)

    @blueprint.post("/")
    @blueprint.post("/status")
    def status() -> Response:
        signed = parse_signed_request(request, settings, Caller.JOB)

        def unseal(credentials: Credentials | None) -> Report:
            return signed.read_report(signed.prove(credentials))

        outcome = actions.apply_report(signed.action_id, unseal, signed.envelope, signed.now)
        if outcome.refused is not None:
            raise ReportRefused(outcome.refused)
        if outcome.has_ended:
            files.attach_pending(signed.action_id)
        return _answer(outcome.action, signed.now)

    @blueprint.get("/job")
    def job() -> Response:
        signed = parse_signed_request(request, settings, Caller.JOB)
        return _answer(actions.read_for_job(signed.action_id, signed.prove, signed.claim.scheme), signed.now)

    return blueprint


def _answer(action: Action, now: datetime) -> Response:
    return jsonify(action_to_json(action, now=now))


def _start_clock() -> None:
    g.started_at = time.monotonic()


def _count(response: Response) -> Response:
    if request.method == "POST" and "started_at" in g:  # a report, whether accepted or refused
        refused_with = None if response.status_code == 200 else response.get_json()["error"]
        metrics.count_report(refused_with, timedelta(seconds=time.monotonic() - g.started_at))
    return response
