# SPDX-License-Identifier: Apache-2.0
"""Routes of files (PROTOCOL.md, section 3).

A job uploads outputs and downloads inputs, and its task uploads or links inputs and lists outputs: both sign
their requests. Requests to ``/content`` are authorized by the token in their URL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import BinaryIO

from flask import Blueprint, Request, Response, jsonify, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from airflow_asyncaction.files.service import FileService, FileTarget
from airflow_asyncaction.protocol.content_responses import ContentResponse
from airflow_asyncaction.protocol.files import Announcement, FileReference, Role
from airflow_asyncaction.protocol.reports import parse_object
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.proof import Credentials
from airflow_asyncaction.web.content import CHUNK_BYTES, CONTENT_PATH, read_chunks
from airflow_asyncaction.web.security import Caller, SignedRequest, parse_signed_request

HookUrl = Callable[[Request], str]
"""Returns the absolute URL of the routes as the sender of a request reaches them."""


def files_blueprint(files: FileService, settings: Settings, hook_url: HookUrl) -> Blueprint:
    """Return the routes of jobs, ``/upload`` and ``/download``."""
    blueprint = Blueprint("files", __name__)

    @blueprint.put("/upload/<store>/<uuid>/<property_>")
    def announce(store: str, uuid: str, property_: str) -> Response:
        signed = parse_signed_request(request, settings, Caller.JOB)
        target = FileTarget(store, property_, Role.OUTPUT, uuid)
        return _announce(files, signed, target, hook_url(request) + CONTENT_PATH)

    @blueprint.post("/upload/<store>/<uuid>/<property_>/<index:index>/complete")
    def complete(store: str, uuid: str, property_: str, index: int) -> Response:
        signed = parse_signed_request(request, settings, Caller.JOB)
        target = FileTarget(store, property_, Role.OUTPUT, uuid)
        return jsonify(files.complete(signed, target, index, signed.prove))

    @blueprint.get("/download/<store>/<uuid>/<property_>/<index:index>")
    def download(store: str, uuid: str, property_: str, index: int) -> AnyResponse:
        signed = parse_signed_request(request, settings, Caller.JOB)
        wanted = FileTarget(store, property_, Role.INPUT, uuid)
        location = files.locate(signed, wanted, index, signed.prove, hook_url(request) + CONTENT_PATH)
        if request.args.get("redirect") == "true":
            return redirect(location["Location"])
        return jsonify(location)

    return blueprint


def task_files_blueprint(files: FileService, settings: Settings, task_url: HookUrl) -> Blueprint:
    """Return the routes of tasks, ``/task/inputs`` and ``/task/outputs``."""
    blueprint = Blueprint("task_files", __name__, url_prefix="/task")

    @blueprint.put("/inputs/<store>/<property_>")
    def announce_input(store: str, property_: str) -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)
        target = FileTarget(store, property_, Role.INPUT)
        return _announce(files, signed, target, task_url(request) + CONTENT_PATH)

    @blueprint.post("/inputs/<store>/<property_>/<index:index>/complete")
    def complete_input(store: str, property_: str, index: int) -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)
        target = FileTarget(store, property_, Role.INPUT)
        return jsonify(files.complete(signed, target, index, signed.prove))

    @blueprint.post("/inputs/<property_>/link")
    def link_input(property_: str) -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)
        return jsonify(files.link(signed, property_, signed.unseal_with(FileReference.from_json)))

    @blueprint.get("/outputs")
    def outputs() -> Response:
        signed = parse_signed_request(request, settings, Caller.TASK)
        return jsonify({"files": [file.to_json() for file in files.outputs(signed, signed.prove)]})

    return blueprint


def contents_blueprint(files: FileService) -> Blueprint:
    """Return the routes ``/content`` for WSGI servers. Under ASGI, :class:`ContentApp` serves them."""
    blueprint = Blueprint("contents", __name__)

    @blueprint.put(f"{CONTENT_PATH}<token>")
    def put_content(token: str) -> Response:
        with closing(files.receive(token)) as receiving:
            receiving.check_size(request.content_length or 0)
            while chunk := request.stream.read(CHUNK_BYTES):
                receiving.write(chunk)
            return jsonify(receiving.finish())

    @blueprint.get(f"{CONTENT_PATH}<token>")
    def get_content(token: str) -> Response:
        content, opened = files.open(token)
        answer = ContentResponse.of(content, {name.lower(): value for name, value in request.headers})
        response = Response(_read_and_close(answer, opened), answer.status, answer.headers)
        response.call_on_close(opened.close)  # a HEAD request reads nothing
        return response

    return blueprint


def _announce(files: FileService, signed: SignedRequest, target: FileTarget, content_url: str) -> Response:
    def unseal(credentials: Credentials | None) -> Announcement:
        proven = signed.prove(credentials)
        return Announcement.from_json(parse_object(proven.masked(signed.content.body)))

    return jsonify(files.announce(signed, target, unseal, content_url))


def _read_and_close(answer: ContentResponse, opened: BinaryIO) -> Iterator[bytes]:
    """Yield the body in chunks. Werkzeug's server does not close a response whose client disconnected."""
    with closing(opened):
        yield from read_chunks(answer, opened)
