# SPDX-License-Identifier: Apache-2.0
"""Routes of :class:`~airflow_asyncaction.testing.JobServer`: those of jobs, as the API server has them."""

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
    """What a route is for."""

    REPORT = auto()  # POST /status, or to the hook URL itself
    JOB = auto()  # GET /job
    ANNOUNCE = auto()  # PUT /upload/...
    COMPLETE = auto()  # POST /upload/.../complete
    LOCATE = auto()  # GET /download/...


@dataclass(frozen=True)
class Route:
    """A route that was found, and the names in its path."""

    endpoint: Endpoint
    names: Mapping[str, str]


_NOT_SIGNED_IN = Refusal(
    401, "not_signed_in", "Operations are for users only", headers={"WWW-Authenticate": "Bearer"}
)
_PLACE = "(?P<store>[^/]+)/(?P<owner>[^/]+)/(?P<property>[^/]+)"
_FILE = f"{_PLACE}/(?P<index>[0-9]{{1,{len(str(MAX_INDEX))}}})"
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
)


def find_route(method: str, path: str, *, is_job: bool) -> Route | Refusal:
    """Return the route of a request, or how a request for none is refused.

    :param path: relative to the hook URL, percent-encoded
    :param is_job: whether the request says that it is a job's
    """
    decoded = "/" + unquote(path).lstrip("/")
    method = "GET" if method == "HEAD" else method
    for pattern, methods in _ROUTES:
        match = re.fullmatch(pattern, decoded)
        if match is not None:
            return _found(methods, method, match.groupdict())
    if re.fullmatch(_OPERATION, decoded) and (method == "PUT" or not is_job):
        return _found({"PUT": _NOT_SIGNED_IN}, method, {})
    return Refusal.no_such_route()


def _found(methods: _Methods, method: str, names: Mapping[str, Any]) -> Route | Refusal:
    found = methods.get(method)
    if found is None:
        return Refusal.method_not_allowed([*methods, *(["HEAD"] if "GET" in methods else [])])
    return found if isinstance(found, Refusal) else Route(found, names)
