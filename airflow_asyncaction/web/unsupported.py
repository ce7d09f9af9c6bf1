# SPDX-License-Identifier: Apache-2.0
"""Unsupported Airflow: the app that the API server mounts when Airflow lacks what this package uses of it."""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import Receive, Scope, Send

from airflow_asyncaction.protocol.refusals import Refusal
from airflow_asyncaction.web.asgi import mounted_path, refusal_response

_RETRY_AFTER = {"Retry-After": "60"}


class UnsupportedAirflow:
    """ASGI app that refuses all requests.

    Tasks get a 403, so that they fail with the message. Jobs and users get a 503: a running job goes on, and
    sends its reports again until a supported Airflow has been installed.
    """

    def __init__(self, message: str) -> None:
        self._message = message

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse one request."""
        is_task = mounted_path(scope).startswith("/task/")
        status = HTTPStatus.FORBIDDEN if is_task else HTTPStatus.SERVICE_UNAVAILABLE
        headers = {} if is_task else _RETRY_AFTER
        refusal = Refusal(status, "unsupported_airflow", self._message, headers=headers)
        await refusal_response(refusal)(scope, receive, send)
