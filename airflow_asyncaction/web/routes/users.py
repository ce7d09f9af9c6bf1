# SPDX-License-Identifier: Apache-2.0
"""Routes of users (people and services): launch operations, and list, follow and stop actions.

Each request is authenticated before anything else in it is checked. Airflow's auth manager decides what a
user may do (``web.permissions``).
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, jsonify, request
from werkzeug.wrappers import Response as AnyResponse

from airflow_asyncaction.exceptions import UserRefused
from airflow_asyncaction.files.service import FileService
from airflow_asyncaction.json_schema.inputs import parse_input, validate_input
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store import launching, listing, timeline
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.database import Database
from airflow_asyncaction.store.launching import Launch
from airflow_asyncaction.store.listing import ActionRecord
from airflow_asyncaction.store.log_lines import LogPage
from airflow_asyncaction.store.operations import Operation, find_operations, operation_ids
from airflow_asyncaction.web.airflow_api import create_run, fail_task, try_to_fail_run
from airflow_asyncaction.web.content import CONTENT_PATH
from airflow_asyncaction.web.permissions import User, authenticate
from airflow_asyncaction.web.query import (
    LARGEST_NUMBER,
    parse_cursor,
    parse_filter,
    parse_flag,
    parse_idempotency_key,
    parse_number,
    parse_time,
)
from airflow_asyncaction.web.raw_request import read_body, redirect_to
from airflow_asyncaction.web.visible_actions import (
    action_to_json,
    find_visible_action,
    hide_output,
    list_visible_actions,
    may_see_bodies,
    no_such_action,
    outlook_to_json,
    refuse_if_missing,
)

_PAGE_SIZE = 50
_LARGEST_PAGE_SIZE = 200


def users_blueprint(actions: Actions, files: FileService, settings: Settings) -> Blueprint:
    """Return the routes below ``/actions``, and those of operations."""
    blueprint, database = Blueprint("users", __name__), actions.database

    @blueprint.before_request
    def authenticate_first() -> None:
        g.user = authenticate(request, database)

    _add_operation_routes(blueprint, actions, settings)
    _add_action_routes(blueprint, actions)
    _add_file_routes(blueprint, database, files)
    return blueprint


def _add_operation_routes(blueprint: Blueprint, actions: Actions, settings: Settings) -> None:
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


def _add_action_routes(blueprint: Blueprint, actions: Actions) -> None:
    database = actions.database

    @blueprint.get("/actions")
    def list_actions() -> AnyResponse:
        now, wanted, before = datetime.now(UTC), parse_filter(request), parse_cursor(request)
        limit = parse_number(request, "limit", default=_PAGE_SIZE, least=1, most=_LARGEST_PAGE_SIZE)
        page = list_visible_actions(database, g.user, wanted, limit=limit, before=before)
        listed = [hide_output(action.to_short_json(now)) for action in page.actions]
        for fields in listed:
            del fields["serverTime"]
        return _respond_if_changed({"actions": listed, "nextCursor": page.next})

    @blueprint.get("/actions/<uuid>")
    def show_action(uuid: str) -> AnyResponse:
        found = find_visible_action(database, g.user, uuid)
        return _respond_if_changed(action_to_json(database, g.user, found))

    @blueprint.get("/actions/<uuid>/logs")
    def list_logs(uuid: str) -> Response:
        found = find_visible_action(database, g.user, uuid, "TASK_LOGS")
        page = timeline.read_logs(database, found.id, _parse_position("after"))
        return jsonify(_logs_to_json(page, found))

    @blueprint.get("/actions/<uuid>/reports")
    def list_reports(uuid: str) -> Response:
        found = find_visible_action(database, g.user, uuid)
        bodies = may_see_bodies(g.user, found.dag_id)
        return jsonify(timeline.read_reports(database, found.id, _parse_position("after"), bodies=bodies))

    @blueprint.get("/actions/<uuid>/changes")
    def list_changes(uuid: str) -> AnyResponse:
        return _list_changes(database, g.user, uuid)

    @blueprint.put("/actions/<uuid>/stop")
    def stop_action(uuid: str) -> Response:
        found = find_visible_action(database, g.user, uuid)
        g.user.check("PUT", found.dag_id, "TASK_INSTANCE")
        stopped = launching.stop(
            actions,
            found,
            requested_by=g.user.name,
            method=request.method,
            fail_run=partial(try_to_fail_run, request),
            fail_task=partial(fail_task, request),
        )
        return jsonify(action_to_json(database, g.user, stopped))


def _add_file_routes(blueprint: Blueprint, database: Database, files: FileService) -> None:
    @blueprint.get("/actions/<uuid>/files")
    def list_files(uuid: str) -> Response:
        found = find_visible_action(database, g.user, uuid, "XCOM")
        listed = [
            {"property": file.property, "role": role.value, **file.to_map()}
            for role, file in files.of_action(found.id)
        ]
        return jsonify({"files": found.masked(listed)})

    @blueprint.get("/actions/<uuid>/files/<property_>/<index:index>")
    def download_file(uuid: str, property_: str, index: int) -> AnyResponse:
        found = find_visible_action(database, g.user, uuid, "XCOM")
        content_url = request.script_root + CONTENT_PATH  # a path, since the browser knows the host
        return redirect_to(files.locate_for_user(found.id, property_, index, content_url, datetime.now(UTC)))


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


def _list_changes(database: Database, user: User, uuid: str) -> AnyResponse:
    """Return the changes of an action. If there are none, this usually costs one query of one row."""
    after_line, after_report = _parse_position("afterLine"), _parse_position("afterReport")
    change = refuse_if_missing(uuid, lambda: listing.find_change(database, uuid))
    may_see_logs = user.may("GET", change.dag_id, "TASK_LOGS")
    if not user.may("GET", change.dag_id, "TASK_INSTANCE"):
        raise no_such_action(uuid)
    versions = [uuid, change.updated_at.timestamp(), after_line, after_report, may_see_logs]
    if change.may_be_retried:
        ended = refuse_if_missing(uuid, lambda: listing.find(database, uuid, short=True))
        versions += outlook_to_json(database, ended).values()
    etag = "-".join(map(str, versions))
    if request.if_none_match.contains_weak(etag):  # proxies that compress make it weak
        unchanged = Response(status=304)
        unchanged.set_etag(etag)
        return unchanged
    found = refuse_if_missing(uuid, lambda: listing.find(database, uuid, short=True))
    page = timeline.read_logs(database, found.id, after_line) if may_see_logs else LogPage(1, (), False)
    fields = found.to_short_json(datetime.now(UTC))
    bodies = may_see_bodies(user, found.dag_id)
    response = jsonify(
        {
            "action": {
                **(fields if may_see_logs else hide_output(fields)),
                "statusDetails": found.status_details,
                **outlook_to_json(database, found),
            },
            "logs": _logs_to_json(page, found),
            "reports": timeline.read_reports(database, found.id, after_report, bodies=bodies),
        }
    )
    response.set_etag(etag)
    return response


def _logs_to_json(page: LogPage, action: ActionRecord) -> dict[str, Any]:
    return {
        "firstLine": page.first_line,
        "lastLine": page.last_line,
        "lines": [line.to_json() for line in page.lines],
        "hasMore": page.has_more,
        "isDone": action.is_done,
    }


def _parse_position(name: str) -> int:
    """Parse the number of the last line or report that the client has."""
    return parse_number(request, name, default=0, least=0, most=LARGEST_NUMBER)


def _respond_if_changed(fields: dict[str, Any]) -> AnyResponse:
    """Return the fields, or 304 if only ``serverTime`` has changed."""
    stable = json.dumps({**fields, "serverTime": None}, sort_keys=True)
    response = jsonify(fields)
    response.set_etag(hashlib.sha256(stable.encode()).hexdigest()[:32])
    return response.make_conditional(request)
