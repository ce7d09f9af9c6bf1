# SPDX-License-Identifier: Apache-2.0
"""Routes of operations: list and launch them. They belong to the blueprint of users."""

from __future__ import annotations

from functools import partial

from flask import Blueprint, Response, g, jsonify, request

from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.json_schema.inputs import parse_input, validate_input
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store import launching
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.launching import Launch
from airflow_asyncaction.store.operations import Operation, find_operations, operation_ids
from airflow_asyncaction.web.airflow_api import create_run
from airflow_asyncaction.web.permissions import User
from airflow_asyncaction.web.query import parse_flag, parse_idempotency_key, parse_time
from airflow_asyncaction.web.raw_request import read_body
from airflow_asyncaction.web.visible_actions import action_to_json


def add_operation_routes(blueprint: Blueprint, actions: Actions, settings: Settings) -> None:
    """Add the routes of operations to a blueprint that authenticates users."""
    database = actions.database

    @blueprint.get("/")
    def list_operations() -> Response:
        is_full, ids = parse_flag(request, "full"), operation_ids(database)
        for method in ("GET", "POST"):  # the permissions that launching needs
            ids = sorted(g.user.filter_permitted(method, "RUN", ids))
        if not is_full:
            return jsonify(ids)
        return jsonify({found.id: found.to_json() for found in find_operations(database, ids)})

    @blueprint.put("/<operation:operation_id>")
    def launch_operation(operation_id: str) -> Response:
        operation = _find_permitted(database, g.user, operation_id)
        fields = parse_input(read_body(request, settings.limits.body_bytes))
        schema, is_linear = operation.declaration.input, operation.is_linear
        wanted = Launch(
            operation=operation,
            arguments=validate_input(fields, schema, is_linear=is_linear),
            requested_by=g.user.name,
            scheduled_at=parse_time(request, "schedule"),
            idempotency_key=parse_idempotency_key(request),
        )
        action = launching.launch(actions, wanted, partial(create_run, request))
        response = jsonify(action_to_json(database, g.user, action))
        response.status_code = 202
        response.headers["Location"] = f"{request.script_root}/actions/{action.id}"
        return response


def _find_permitted(database: Database, user: User, operation_id: str) -> Operation:
    """Return an operation that a user may launch.

    :raises UserRefused: the operation does not exist, or the user may not see or launch it
    """
    found = find_operations(database, [operation_id])
    if not found or not user.may("GET", operation_id, "RUN"):
        message = (
            f"The operation {operation_id[:250]!r} does not exist, or you may not see it. GET /async lists"
            " the operations"
        )
        raise UserRefused(message, code="no_such_operation")
    user.check("POST", operation_id, "RUN")
    return found[0]
