# SPDX-License-Identifier: Apache-2.0
"""Route of the OpenAPI 3.1 description of the user routes: ``openapi.yaml`` with the mount's URL."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from flask import Blueprint, Response, jsonify, request

from airflow_asyncaction import __version__

_FILE = Path(__file__).parents[1] / "openapi.yaml"


def openapi_blueprint() -> Blueprint:
    """Return the route ``/openapi.json``. It needs no authentication, since it contains no data."""
    blueprint = Blueprint("openapi", __name__)

    @blueprint.get("/openapi.json")
    def description() -> Response:
        return jsonify(openapi(request.script_root))

    return blueprint


def openapi(mounted_at: str) -> dict[str, Any]:
    """Return the OpenAPI description.

    :param mounted_at: path of the hook URL, as the client reaches it
    """
    description = _load()
    info = {**description["info"], "version": __version__}
    return {**description, "info": info, "servers": [{"url": mounted_at or "/"}]}


@cache
def _load() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return loaded
