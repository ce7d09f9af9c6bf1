# SPDX-License-Identifier: Apache-2.0
"""Routes of :class:`~airflow_asyncaction.testing.JobServer`: the job routes of the API server.

The routes of tasks and users exist too, but refuse all requests, like the API server does without a task key
or credentials.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from urllib.parse import unquote

from airflow_asyncaction.protocol.files import MAX_INDEX
from airflow_asyncaction.protocol.refusals import Refusal


class Endpoint(Enum):
    """Handlers of routes."""

    REPORT = auto()  # POST /status, or to the hook URL itself
    JOB = auto()  # GET /job
    ANNOUNCE = auto()  # PUT /upload/...
    COMPLETE = auto()  # POST /upload/.../complete
    LOCATE = auto()  # GET /download/...
    TASK = auto()  # any route below /task, which no job may use


@dataclass(frozen=True)
class Route:
    """Handler of a request, and the variable parts of its path."""

    endpoint: Endpoint
    names: Mapping[str, str]


_NOT_SIGNED_IN = Refusal(
    401, "not_signed_in", "This route is for users only", headers={"WWW-Authenticate": "Bearer"}
)
_NOT_PROVEN = Refusal(403, "not_proven", "This route is for tasks only")
_PLACE = "(?P<store>[^/]+)/(?P<owner>[^/]+)/(?P<property>[^/]+)"
_INDEX = f"(?P<index>[0-9]{{1,{len(str(MAX_INDEX))}}})"
_FILE = f"{_PLACE}/{_INDEX}"
_HOOK = "/"
_OPERATION = r"/[.~-]*\w[\w.~-]*"

_Methods = Mapping[str, Endpoint | Refusal]

_ROUTES: tuple[tuple[str, _Methods], ...] = (
    (_HOOK, {"POST": Endpoint.REPORT, "GET": _NOT_SIGNED_IN}),
    ("/status", {"POST": Endpoint.REPORT}),
    ("/job", {"GET": Endpoint.JOB}),
    (f"/upload/{_PLACE}", {"PUT": Endpoint.ANNOUNCE}),
    (f"/upload/{_FILE}/complete", {"POST": Endpoint.COMPLETE}),
    (f"/download/{_FILE}", {"GET": Endpoint.LOCATE}),
    ("/task/register", {"POST": _NOT_PROVEN}),
    ("/task/(?:action|outputs)", {"GET": Endpoint.TASK}),
    ("/task/(?:message|secrets|defer|reap)", {"POST": Endpoint.TASK}),
    ("/task/inputs/[^/]+/link", {"POST": Endpoint.TASK, "PUT": Endpoint.TASK}),
    ("/task/inputs/[^/]+/[^/]+", {"PUT": Endpoint.TASK}),
    (f"/task/inputs/[^/]+/[^/]+/{_INDEX}/complete", {"POST": Endpoint.TASK}),
    ("/actions", {"GET": _NOT_SIGNED_IN, "PUT": _NOT_SIGNED_IN}),
    ("/actions/[^/]+(?:/(?:logs|reports|changes|files))?", {"GET": _NOT_SIGNED_IN}),
    (f"/actions/[^/]+/files/[^/]+/{_INDEX}", {"GET": _NOT_SIGNED_IN}),
    ("/actions/[^/]+/stop", {"PUT": _NOT_SIGNED_IN}),
)


def find_route(method: str, path: str, *, is_job: bool) -> Route | Refusal:
    """Return the route of a request, or the error if there is none.

    :param path: percent-encoded path, relative to the hook URL
    :param is_job: whether the request has the headers of a job
    """
    decoded = "/" + unquote(path).lstrip("/")
    method = "GET" if method == "HEAD" else method
    for pattern, methods in _ROUTES:
        match = re.fullmatch(pattern, decoded)
        if match is not None:
            return _choose(methods, method, match.groupdict())
    if re.fullmatch(_OPERATION, decoded) and (method == "PUT" or not is_job):
        return _choose({"PUT": _NOT_SIGNED_IN}, method, {})
    return Refusal.no_such_route()


def _choose(methods: _Methods, method: str, names: Mapping[str, Any]) -> Route | Refusal:
    found = methods.get(method)
    if found is None:
        return Refusal.method_not_allowed([*methods, *(["HEAD"] if "GET" in methods else [])])
    return found if isinstance(found, Refusal) else Route(found, names)
