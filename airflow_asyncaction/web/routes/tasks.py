# SPDX-License-Identifier: Apache-2.0
"""Routes of tasks: register an action, follow it, and report what the runner observed.

The task state store authenticates registration (``store.registration``). All other requests are signed with
the action's task key.

``GET /task/action?after=0`` returns the action with its log lines after the given one. With the ``version``
of an earlier response and ``wait`` in seconds, it waits for the next change, or answers 304
(``web.long_polls``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, jsonify, request
from werkzeug.datastructures import Headers

from airflow_asyncaction.exceptions import MalformedRequest, RegistrationRefused
from airflow_asyncaction.protocol.job_info import is_job_id
from airflow_asyncaction.protocol.reports import parse_object
from airflow_asyncaction.protocol.runner_messages import RunnerMessage, mask_message, message_from_json
from airflow_asyncaction.protocol.tasks import (
    TASK_ID_HEADER,
    TASK_NONCE_HEADER,
    ActionSpec,
    Deferral,
    TaskView,
    secrets_from_json,
)
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.proof import Credentials
from airflow_asyncaction.store.reaping import reap_if_unwatched
from airflow_asyncaction.store.registration import Claimant, Registered, RegistrationRequest, register
from airflow_asyncaction.web.raw_request import read_body
from airflow_asyncaction.web.security import Caller, parse_signed_request

_MAX_LINE = 2**31 - 1


def tasks_blueprint(actions: Actions, settings: Settings) -> Blueprint:
    """Return the routes below ``/task``."""
    blueprint = Blueprint("tasks", __name__, url_prefix="/task")

    @blueprint.post("/register")
    def register_action() -> Response:
        claimant, body = _parse_claimant(request.headers), read_body(request, settings.limits.body_bytes)
        registered = register(
            actions.database, claimant, lambda: _parse_registration(body, settings), datetime.now(UTC)
        )
        return jsonify(_registered_to_json(registered, settings))

    @blueprint.get("/action")
    def show_action() -> Response:
        """Show an action to its task. ``web.long_polls`` handles the parameters ``version`` and ``wait``."""
        signed = parse_signed_request(request, settings, Caller.TASK)
        after_line = min(max(0, request.args.get("after", 0, type=int)), _MAX_LINE)
        view = actions.read_for_task(signed.action_id, signed.prove, after_line=after_line, now=signed.now)
        page = view.log_page
        task_view = TaskView.of(
            view.action,
            is_deferred=view.is_deferred,
            logs=page.lines,
            first_line=page.first_line,
            has_more=page.has_more,
            version=view.version,
        )
        return jsonify(task_view.to_json())

    @blueprint.post("/message")
    def apply_runner_message() -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)

        def unseal(credentials: Credentials | None) -> RunnerMessage:
            proven = signed.prove(credentials)
            message = message_from_json(parse_object(proven.masked(signed.content.body)))
            return mask_message(message, proven.masker)

        action = actions.apply_runner_message(
            signed.action_id, unseal, signed.now, ti_id=request.args.get("ti")
        )
        return jsonify(TaskView.of(action).to_json())

    @blueprint.post("/secrets")
    def add_secrets() -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)
        actions.add_secrets(signed.action_id, signed.unseal_with(secrets_from_json))
        return jsonify({})

    @blueprint.post("/defer")
    def defer() -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)
        action = actions.defer(signed.action_id, signed.unseal_with(Deferral.from_json), signed.now)
        return jsonify(TaskView.of(action).to_json())

    @blueprint.post("/reap")
    def reap() -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)
        ended = reap_if_unwatched(actions, signed.action_id, signed.now, prove=signed.prove)
        return jsonify(TaskView.of(ended.after).to_json())

    return blueprint


def _parse_claimant(headers: Headers) -> Claimant:
    ti_id, nonce = headers.get(TASK_ID_HEADER, ""), headers.get(TASK_NONCE_HEADER, "")
    if not is_job_id(ti_id) or not nonce:
        raise RegistrationRefused(
            f"The headers {TASK_ID_HEADER} and {TASK_NONCE_HEADER} are missing or invalid. Check that"
            " the worker and the API server have the same version of airflow-asyncaction",
            code="not_proven",
        )
    return Claimant.of(ti_id.lower(), nonce)


def _parse_registration(body: bytes, settings: Settings) -> RegistrationRequest:
    fields = parse_object(body)
    if not isinstance(fields.get("spec"), dict):
        raise MalformedRequest("spec is not an object", field="spec")
    resumes = fields.get("resumes")
    if resumes is not None and not isinstance(resumes, str):
        raise MalformedRequest("resumes is not a string", field="resumes")
    spec = ActionSpec.from_json(fields["spec"])
    return RegistrationRequest(
        replace(spec, orchestrator=spec.orchestrator or settings.orchestrator), resumes
    )


def _registered_to_json(registered: Registered, settings: Settings) -> dict[str, Any]:
    return {
        "actionId": registered.action.id,
        "secretKey": registered.secrets.job,
        "taskKey": registered.secrets.task,
        "orchestrator": registered.action.orchestrator or settings.orchestrator,
        "attempt": registered.action.attempt,
        "wasLaunched": registered.action.started_at is not None,
    }
