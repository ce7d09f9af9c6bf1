# SPDX-License-Identifier: Apache-2.0
"""Routes of task files: a task uploads or links its job's inputs, and lists its outputs."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from airflow_asyncaction.files.service import FileService, FileTarget
from airflow_asyncaction.protocol.file_rules import attached_response
from airflow_asyncaction.protocol.files import FileReference, Role
from airflow_asyncaction.protocol.reports import parse_object
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.proof import Credentials
from airflow_asyncaction.web.routes.files import HookUrl, content_url, unseal_announcement, upload_to_json
from airflow_asyncaction.web.security import Caller, parse_signed_request


def task_files_blueprint(files: FileService, settings: Settings, hook_url: HookUrl) -> Blueprint:
    """Return the routes below ``/task/inputs`` and ``/task/outputs``."""
    blueprint = Blueprint("task_files", __name__, url_prefix="/task")

    @blueprint.put("/inputs/<store>/<property_>")
    def announce_input(store: str, property_: str) -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)
        target = FileTarget(store, property_, Role.INPUT)
        upload = files.announce(signed, target, unseal_announcement(signed), content_url(request, hook_url))
        return jsonify(upload_to_json(upload))

    @blueprint.post("/inputs/<store>/<property_>/<index:index>/complete")
    def complete_input(store: str, property_: str, index: int) -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)
        attached = files.complete(signed, FileTarget(store, property_, Role.INPUT), index, signed.prove)
        return jsonify(attached_response(attached))

    @blueprint.post("/inputs/<property_>/link")
    def link_input(property_: str) -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)

        def unseal(credentials: Credentials | None) -> FileReference:
            signed.prove(credentials)
            return FileReference.from_json(parse_object(signed.content.body))

        return jsonify(attached_response(files.link(signed, property_, unseal)))

    @blueprint.get("/outputs")
    def outputs() -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)
        return jsonify({"files": [file.to_json() for file in files.outputs(signed, signed.prove)]})

    return blueprint
