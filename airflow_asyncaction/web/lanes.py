# SPDX-License-Identifier: Apache-2.0
"""Lanes: which threads serve a request. The routing table decides, so that each route has one lane."""

from __future__ import annotations

from enum import Enum

from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import Map


class Lane(Enum):
    """Groups of routes. User routes wait for Airflow, contents for slow clients; neither may delay jobs."""

    JOBS = "jobs"  # signed by a job or its task
    CONTENTS = "contents"  # streamed, without a thread for each
    USERS = "users"  # people and services; also whatever no route takes


_LANES = {
    "jobs": Lane.JOBS,
    "files": Lane.JOBS,
    "tasks": Lane.JOBS,
    "task_files": Lane.JOBS,
    "contents": Lane.CONTENTS,
    "users": Lane.USERS,
    "openapi": Lane.USERS,
    "page": Lane.USERS,
}
"""The lane of each blueprint."""


class Lanes:
    """Finds the lane of a request as Flask finds its route, so that no spelling of a path comes between them.

    :param url_map: of the Flask app, complete
    :raises LookupError: a route's blueprint has no lane
    """

    def __init__(self, url_map: Map) -> None:
        self._lane_of = {rule.endpoint: _lane(rule.endpoint) for rule in url_map.iter_rules()}
        self._adapter = url_map.bind("")

    def find(self, method: str, path: str) -> Lane:
        """Return the lane of a request.

        :param path: below the mount, decoded: WSGI's ``PATH_INFO`` as text
        """
        try:
            return self._match(method, path)
        except MethodNotAllowed as error:
            lanes = {self._match(allowed, path) for allowed in error.valid_methods or ()}
            # Nothing else takes the token of a content out of the access log.
            return Lane.CONTENTS if Lane.CONTENTS in lanes else Lane.USERS
        except HTTPException:
            return Lane.USERS

    def _match(self, method: str, path: str) -> Lane:
        endpoint, _ = self._adapter.match(path, method)
        return self._lane_of[endpoint]


def _lane(endpoint: str) -> Lane:
    blueprint, _, name = endpoint.rpartition(".")
    if blueprint not in _LANES:
        raise LookupError(f"The route {name!r} of blueprint {blueprint!r} has no lane: add it to _LANES")
    return _LANES[blueprint]
