# SPDX-License-Identifier: Apache-2.0
"""The routes of jobs (PROTOCOL.md, 3). Every request is signed by its job."""

from __future__ import annotations

from datetime import datetime

from flask import Blueprint, Response, g, jsonify, request
from werkzeug.exceptions import TooManyRequests

from airflow_asyncaction.protocol.actions import Action, answer
from airflow_asyncaction.protocol.reports import parse
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.web.rate_limit import RateLimit
from airflow_asyncaction.web.refusals import ReportRefused
from airflow_asyncaction.web.security import Caller, authenticate_job


def jobs_blueprint(actions: Actions, settings: Settings) -> Blueprint:
    """Return the routes ``/status``, the hook root and ``/job``."""
    blueprint = Blueprint("jobs", __name__)
    rate_limit = RateLimit(settings.max_reports_per_second)

    @blueprint.before_request
    def authenticate() -> None:
        g.caller = authenticate_job(request, actions, settings)
        if not rate_limit.takes(g.caller.action_id):
            raise TooManyRequests(retry_after=1)

    @blueprint.post("/")
    @blueprint.post("/status")
    def status() -> Response:
        caller: Caller = g.caller
        report = parse(caller.envelope.body, settings.limits)
        outcome = actions.report(caller.action_id, report, caller.envelope, caller.now)
        if outcome.refused is not None:
            raise ReportRefused(outcome.refused)
        return _answer(outcome.action, caller.now)

    @blueprint.get("/job")
    def job() -> Response:
        caller: Caller = g.caller
        return _answer(actions.read(caller.action_id), caller.now)

    return blueprint


def _answer(action: Action, now: datetime) -> Response:
    return jsonify(answer(action, now=now))
