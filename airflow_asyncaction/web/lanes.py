# SPDX-License-Identifier: Apache-2.0
"""Lanes: choose the threads that serve a request, by its route."""

from __future__ import annotations

from enum import Enum

from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import Map


class Lane(Enum):
    """Groups of routes. Users may wait for Airflow, and contents for slow clients, without delaying jobs."""

    JOBS = "jobs"  # signed by a job or its task
    CONTENTS = "contents"  # streamed on the event loop
    USERS = "users"  # people and services, and unknown routes


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
"""Lane of each blueprint."""


class Lanes:
    """Finds the lane of a request with Flask's own routing, so that both agree for every spelling of a path.

    :param url_map: complete routing table of the Flask app
    :raises LookupError: the blueprint of a route has no lane
    """

    def __init__(self, url_map: Map) -> None:
        self._lane_of = {rule.endpoint: _lane(rule.endpoint) for rule in url_map.iter_rules()}
        self._adapter = url_map.bind("")

    def find(self, method: str, path: str) -> Lane:
        """Return the lane of a request.

        :param path: decoded and relative to the mount, like WSGI's ``PATH_INFO`` as text
        """
        try:
            return self._match(method, path)
        except MethodNotAllowed as error:
            lanes = {self._match(allowed, path) for allowed in error.valid_methods or ()}
            # Only the contents lane keeps tokens out of the access log.
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
