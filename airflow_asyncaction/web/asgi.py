# SPDX-License-Identifier: Apache-2.0
"""ASGI helpers: JSON responses and a deadline for bodies, shared by the apps of this package."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from airflow_asyncaction.protocol.refusals import Refusal

SLOWEST_BYTES_PER_SECOND = 1024


class TransferDeadline:
    """Limits the time that a client may take to send or read a body.

    :param patience: how long the client may take overall, in addition to one second per KiB
    """

    def __init__(self, patience: timedelta) -> None:
        self._patience_seconds = patience.total_seconds()
        self._deadline = time.monotonic() + self._patience_seconds

    def add(self, size_bytes: int) -> None:
        """Extend the deadline: the client has transferred this much."""
        self._deadline += size_bytes / SLOWEST_BYTES_PER_SECOND

    def seconds_left(self) -> float:
        """Return the time left for the rest of the body."""
        return max(0.0, self._deadline - time.monotonic())

    def seconds_to_wait(self) -> float:
        """Return how long to wait for the next chunk."""
        return min(self.seconds_left(), self._patience_seconds)


def mounted_path(scope: Scope) -> str:
    """Return the decoded path of a request, relative to the mount."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def refusal_response(refusal: Refusal) -> Response:
    """Return the refusal of a request whose body was not read to its end."""
    return json_response(refusal.status, refusal.fields, {**refusal.headers, "Connection": "close"})


def json_response(
    status: int, fields: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with a JSON object."""
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return Response(Refusal.encode(fields), status, headers, "application/json")
