# SPDX-License-Identifier: Apache-2.0
"""Routes of job files (PROTOCOL.md, section 3): signed by the job, or authorized by the token in the URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, BinaryIO

from flask import Blueprint, Request, Response, jsonify, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from airflow_asyncaction.files.service import FileService, FileTarget, Upload
from airflow_asyncaction.protocol.content_responses import ContentResponse
from airflow_asyncaction.protocol.file_rules import attached_response, location_response, upload_response
from airflow_asyncaction.protocol.files import Announcement, Role
from airflow_asyncaction.protocol.reports import parse_object
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store.proof import Credentials
from airflow_asyncaction.web.content import CHUNK_BYTES, CONTENT_PATH, read_chunks
from airflow_asyncaction.web.security import Caller, SignedRequest, parse_signed_request

HookUrl = Callable[[Request], str]
"""Returns the absolute hook URL as the sender of a request reaches it."""


def files_blueprint(files: FileService, settings: Settings, hook_url: HookUrl) -> Blueprint:
    """Return the routes ``/upload`` and ``/download``."""
    blueprint = Blueprint("files", __name__)

    @blueprint.put("/upload/<store>/<uuid>/<property_>")
    def announce(store: str, uuid: str, property_: str) -> Response:
        signed = parse_signed_request(request, settings, Caller.JOB)
        target = FileTarget(store, property_, Role.OUTPUT, uuid)
        upload = files.announce(signed, target, unseal_announcement(signed), content_url(request, hook_url))
        return jsonify(upload_to_json(upload))

    @blueprint.post("/upload/<store>/<uuid>/<property_>/<index:index>/complete")
    def complete(store: str, uuid: str, property_: str, index: int) -> Response:
        signed = parse_signed_request(request, settings, Caller.JOB)
        target = FileTarget(store, property_, Role.OUTPUT, uuid)
        attached = files.complete(signed, target, index, signed.prove)
        return jsonify(attached_response(attached))

    @blueprint.get("/download/<store>/<uuid>/<property_>/<index:index>")
    def download(store: str, uuid: str, property_: str, index: int) -> AnyResponse:
        signed = parse_signed_request(request, settings, Caller.JOB)
        wanted = FileTarget(store, property_, Role.INPUT, uuid)
        location = files.locate(signed, wanted, index, signed.prove, content_url(request, hook_url))
        if request.args.get("redirect") == "true":
            return redirect(location.url)
        return jsonify(location_response(location.url, location.file))

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
            attached = receiving.finish()
        return jsonify(attached_response(attached))

    @blueprint.get(f"{CONTENT_PATH}<token>")
    def get_content(token: str) -> Response:
        content, opened = files.open(token)
        answer = ContentResponse.of(content, {name.lower(): value for name, value in request.headers})
        response = Response(_read_and_close(answer, opened), answer.status, answer.headers)
        response.call_on_close(opened.close)  # a HEAD request reads nothing
        return response

    return blueprint


def unseal_announcement(signed: SignedRequest) -> Callable[[Credentials | None], Announcement]:
    """Return a function that verifies a request and parses the announcement in its body."""

    def unseal(credentials: Credentials | None) -> Announcement:
        proven = signed.prove(credentials)
        return Announcement.from_json(parse_object(proven.masked(signed.content.body)))

    return unseal


def content_url(request: Request, hook_url: HookUrl) -> str:
    """Return the URL that a token is appended to."""
    return hook_url(request) + CONTENT_PATH


def upload_to_json(upload: Upload) -> dict[str, Any]:
    """Return the response to an announcement."""
    return upload_response(upload.index, upload.url, is_direct=upload.is_direct)


def _read_and_close(answer: ContentResponse, opened: BinaryIO) -> Iterator[bytes]:
    """Yield the body in chunks. Werkzeug's server does not close a response whose client disconnected."""
    with closing(opened):
        yield from read_chunks(answer, opened)
