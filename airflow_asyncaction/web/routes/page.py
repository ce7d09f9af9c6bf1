# SPDX-License-Identifier: Apache-2.0
"""Routes of the page: one HTML document for all views, and the scripts that load data from user routes."""

from __future__ import annotations

import hashlib
from importlib import resources
from string import Template

from flask import Blueprint, Response, abort, request
from markupsafe import escape
from werkzeug.wrappers import Response as AnyResponse

from airflow_asyncaction.web.raw_request import redirect_to

DOCUMENT = "index.html"

_CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'"  # Airflow's UI shows the page in an iframe
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def page_blueprint() -> Blueprint:
    """Return the routes below ``/ui/``. They need no authentication: only the user routes serve data."""
    blueprint = Blueprint("page", __name__, url_prefix="/ui")
    contents = _contents()
    version = _version(contents)
    document = Template(contents.pop(DOCUMENT).decode())

    @blueprint.get("")
    def show_list() -> AnyResponse:
        return redirect_to(f"{request.script_root}/ui/")

    @blueprint.get("/")
    @blueprint.get("/<path:view>")
    def show(view: str = "") -> Response:
        del view  # the script reads it from its location, where it is still encoded
        root = request.script_root
        html = document.substitute(
            root=escape(root), airflow=escape(root.rpartition("/")[0]), version=escape(version)
        )
        return _answer(html.encode(), ".html", cache="no-cache")

    @blueprint.get("/static/<wanted>/<name>")
    def static(wanted: str, name: str) -> Response:
        if name not in contents:
            abort(404)
        # During an upgrade of the deployment, browsers request other versions: do not cache these.
        cache = "public, max-age=31536000, immutable" if wanted == version else "no-cache"
        return _answer(contents[name], name[name.rindex(".") :], cache=cache)

    return blueprint


def _contents() -> dict[str, bytes]:
    folder = resources.files("airflow_asyncaction.web") / "static"
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir(), key=lambda file: file.name)}


def _version(contents: dict[str, bytes]) -> str:
    """Return a digest of all files. URLs contain it, so that browsers can cache the files forever."""
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _answer(content: bytes, suffix: str, *, cache: str) -> Response:
    headers = {**_HEADERS, "Cache-Control": cache}
    return Response(content, headers=headers, content_type=_CONTENT_TYPES[suffix])
