# SPDX-License-Identifier: Apache-2.0
"""The routes of users, people and services: launch operations, look at actions, stop them.

Each request is authenticated before anything else in it is checked, and Airflow's auth manager decides what
its sender may do (``permissions``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, TypeVar

from flask import Blueprint, Response, g, jsonify, request
from werkzeug.wrappers import Response as AnyResponse

from airflow_asyncaction.exceptions import ActionNotFound, UserRefused
from airflow_asyncaction.files.service import Files
from airflow_asyncaction.json_schema.inputs import parse_input
from airflow_asyncaction.protocol.job_info import JobId
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store import listing
from airflow_asyncaction.store.actions import Actions
from airflow_asyncaction.store.dag_ids import dag_ids_with_actions
from airflow_asyncaction.store.listing import ActionRecord, Filter, Page
from airflow_asyncaction.store.log_lines import LogPage
from airflow_asyncaction.store.operations import find_operations, operation_ids
from airflow_asyncaction.web import launching
from airflow_asyncaction.web.content import CONTENT_PATH
from airflow_asyncaction.web.converters import OPERATION
from airflow_asyncaction.web.permissions import User, authenticate
from airflow_asyncaction.web.query import (
    LARGEST_NUMBER,
    parse_cursor,
    parse_filter,
    parse_flag,
    parse_number,
)
from airflow_asyncaction.web.raw_request import raw_body, redirection

T = TypeVar("T")

_PAGE = 50
_LARGEST_PAGE = 200


def users_blueprint(actions: Actions, files: Files, settings: Settings) -> Blueprint:
    """Return the routes below ``/actions``, and those of operations."""
    blueprint = Blueprint("users", __name__)

    @blueprint.before_request
    def authenticate_first() -> None:
        g.user = authenticate(request, actions)

    _operation_routes(blueprint, actions, settings)
    _action_routes(blueprint, actions)
    _file_routes(blueprint, actions, files)
    return blueprint


def _user() -> User:
    user: User = g.user
    return user


def _operation_routes(blueprint: Blueprint, actions: Actions, settings: Settings) -> None:
    @blueprint.get("/")
    def operations() -> Response:
        is_full, ids = parse_flag(request, "full"), operation_ids(actions)
        for method in ("GET", "POST"):  # as for the launch of one
            ids = sorted(_user().permitted(method, "RUN", ids))
        if not is_full:
            return jsonify(ids)
        return jsonify({found.id: found.to_json() for found in find_operations(actions, ids)})

    @blueprint.put(f"/<{OPERATION}:operation_id>")
    def launch(operation_id: str) -> Response:
        user = _user()

        def read() -> dict[str, Any]:
            return parse_input(raw_body(request, settings.limits.body_bytes))

        action = launching.launch(actions, request, user, operation_id, read)
        response = jsonify(_shown(actions, user, action))
        response.status_code = 202
        response.headers["Location"] = f"{request.script_root}/actions/{action.id}"
        return response


def _action_routes(blueprint: Blueprint, actions: Actions) -> None:
    @blueprint.get("/actions")
    def list_() -> AnyResponse:
        now, wanted, before = datetime.now(UTC), parse_filter(request), parse_cursor(request)
        limit = parse_number(request, "limit", default=_PAGE, least=1, most=_LARGEST_PAGE)
        page = _visible_page(actions, _user(), wanted, limit=limit, before=before)
        shown = [_without_output(action.to_short_json(now)) for action in page.actions]
        for fields in shown:
            del fields["serverTime"]
        return _unless_known({"actions": shown, "nextCursor": page.next})

    @blueprint.get("/actions/<uuid>")
    def action(uuid: str) -> AnyResponse:
        user = _user()
        found = _visible(actions, user, uuid)
        return _unless_known(_shown(actions, user, found))

    @blueprint.get("/actions/<uuid>/logs")
    def logs(uuid: str) -> Response:
        found = _visible(actions, _user(), uuid, "TASK_LOGS")
        page = listing.read_logs(actions, found.id, _after("after"))
        return jsonify(_logs_json(page, found))

    @blueprint.get("/actions/<uuid>/reports")
    def reports(uuid: str) -> Response:
        user = _user()
        found = _visible(actions, user, uuid)
        bodies = _may_see_bodies(user, found.dag_id)
        return jsonify(listing.read_reports(actions, found.id, _after("after"), bodies=bodies))

    @blueprint.get("/actions/<uuid>/changes")
    def changes(uuid: str) -> AnyResponse:
        return _changes(actions, _user(), uuid)

    @blueprint.put("/actions/<uuid>/stop")
    def stop(uuid: str) -> Response:
        user = _user()
        found = launching.stop(actions, request, user, _visible(actions, user, uuid))
        return jsonify(_shown(actions, user, found))


def _file_routes(blueprint: Blueprint, actions: Actions, files: Files) -> None:
    @blueprint.get("/actions/<uuid>/files")
    def list_files(uuid: str) -> Response:
        found = _visible(actions, _user(), uuid, "XCOM")
        shown = [
            {"property": file.property, "role": role.value, **file.to_map()}
            for role, file in files.of_action(found.id)
        ]
        return jsonify({"files": found.masked(shown)})

    @blueprint.get("/actions/<uuid>/files/<property_>/<index:index>")
    def download(uuid: str, property_: str, index: int) -> AnyResponse:
        found = _visible(actions, _user(), uuid, "XCOM")
        content_url = request.script_root + CONTENT_PATH  # a path: the browser is at the right host
        location = files.locate_for_user(found.id, property_, index, content_url, datetime.now(UTC))
        return redirection(location.url)


def _changes(actions: Actions, user: User, uuid: str) -> AnyResponse:
    """Answer what is new of an action: mostly that nothing is, by one look at one row."""
    after_line, after_report = _after("afterLine"), _after("afterReport")
    change = _or_refuse(uuid, lambda: listing.find_change(actions, uuid))
    may_see_logs = user.may("GET", change.dag_id, "TASK_LOGS")
    if not user.may("GET", change.dag_id, "TASK_INSTANCE"):
        raise _no_such_action(uuid)
    known = [uuid, change.updated_at.timestamp(), after_line, after_report, may_see_logs]
    if change.has_failed:
        known += _outlook(actions, _or_refuse(uuid, lambda: listing.find(actions, uuid, short=True))).values()
    etag = "-".join(map(str, known))
    if request.if_none_match.contains_weak(etag):  # which a proxy that compresses has made of it
        unchanged = Response(status=304)
        unchanged.set_etag(etag)
        return unchanged
    found = _or_refuse(uuid, lambda: listing.find(actions, uuid, short=True))
    page = listing.read_logs(actions, found.id, after_line) if may_see_logs else LogPage(1, (), False)
    fields = found.to_short_json(datetime.now(UTC))
    bodies = _may_see_bodies(user, found.dag_id)
    response = jsonify(
        {
            "action": {
                **(fields if may_see_logs else _without_output(fields)),
                "statusDetails": found.status_details,
                **_outlook(actions, found),
            },
            "logs": _logs_json(page, found),
            "reports": listing.read_reports(actions, found.id, after_report, bodies=bodies),
        }
    )
    response.set_etag(etag)
    return response


def _visible_page(actions: Actions, user: User, wanted: Filter, *, limit: int, before: JobId | None) -> Page:
    """Return a page of the actions that a user may see.

    For a user who may see all of the newest ones, the page costs one query, however many Dags there are. For
    others a second query is restricted to the Dags that they may see.
    """

    def page(dag_ids: Collection[str] | None, count: int) -> Page:
        return listing.list_actions(actions, wanted, dag_ids=dag_ids, limit=count, before=before)

    # One more than the page holds: nextCursor must not tell of an action that they may not see.
    newest = page(None, limit + 1)
    found = {action.dag_id for action in newest.actions}
    if found == user.permitted("GET", "TASK_INSTANCE", found):
        return newest.first(limit)
    candidates = found if wanted.dag_id is not None else dag_ids_with_actions(actions)
    return page(user.permitted("GET", "TASK_INSTANCE", candidates), limit)


def _visible(actions: Actions, user: User, uuid: str, entity: str = "TASK_INSTANCE") -> ActionRecord:
    """Return an action that somebody may see.

    :param entity: what of it
    :raises UserRefused: they may not, which is no other answer than that there is none; or not that of it
    """
    found = _or_refuse(uuid, lambda: listing.find(actions, uuid))
    if not user.may("GET", found.dag_id, "TASK_INSTANCE"):
        raise _no_such_action(uuid)
    if entity != "TASK_INSTANCE":
        user.check("GET", found.dag_id, entity)
    return found


def _or_refuse(uuid: str, look: Callable[[], T]) -> T:
    try:
        return look()
    except ActionNotFound:
        raise _no_such_action(uuid) from None


def _no_such_action(uuid: str) -> UserRefused:
    said = f"There is no action {uuid[:50]!r}, or it is not yours to see"
    return UserRefused(said, code="no_such_action")


def _shown(actions: Actions, user: User, action: ActionRecord) -> dict[str, Any]:
    """Return all that a user is shown of an action."""
    fields, rights = action.to_json(datetime.now(UTC)), _rights(user, action)
    if not rights["canSeeResults"]:
        fields["results"] = None
    if not user.may("GET", action.dag_id, "TASK_LOGS"):
        fields = _without_output(fields)
    return {**fields, **rights, **_outlook(actions, action)}


def _outlook(actions: Actions, action: ActionRecord) -> dict[str, Any]:
    """Return what is to come after an action."""
    outlook = listing.find_outlook(actions, action)
    return {"nextAttempt": outlook.next_attempt, "isFinal": outlook.is_final}


def _without_output(fields: dict[str, Any]) -> dict[str, Any]:
    """Return an action without the lines of its job's output that its error may end with."""
    message = fields["errorMessage"]
    return {**fields, "errorMessage": message and message.partition("\n")[0]}


def _may_see_bodies(user: User, dag_id: str) -> bool:
    """Tell whether somebody may see what reports had in them: lines, and results."""
    return user.may("GET", dag_id, "TASK_LOGS") and user.may("GET", dag_id, "XCOM")


def _rights(user: User, action: ActionRecord) -> dict[str, bool]:
    """Return what the user may do with an action beyond looking at it."""
    return {
        "canSeeResults": user.may("GET", action.dag_id, "XCOM"),
        "canStop": user.may("PUT", action.dag_id, "TASK_INSTANCE"),
    }


def _logs_json(page: LogPage, action: ActionRecord) -> dict[str, Any]:
    return {
        "firstLine": page.first_line,
        "lastLine": page.last_line,
        "lines": [line.to_json() for line in page.lines],
        "hasMore": page.has_more,
        "isDone": action.is_done,
    }


def _after(name: str) -> int:
    return parse_number(request, name, default=0, least=0, most=LARGEST_NUMBER)


def _unless_known(fields: dict[str, Any]) -> AnyResponse:
    """Answer 304 to who has the same already, but for the time."""
    known = json.dumps({**fields, "serverTime": None}, sort_keys=True)
    response = jsonify(fields)
    response.set_etag(hashlib.sha256(known.encode()).hexdigest()[:32])
    return response.make_conditional(request)
