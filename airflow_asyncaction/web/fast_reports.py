# SPDX-License-Identifier: Apache-2.0
"""Fast reports: responds to ordinary reports on the event loop, without a thread and Flask.

The route in ``routes.jobs`` is the definition. Whatever is not an ordinary report that is written in a batch
(``store.report_batches``) is passed on to it unchanged: this module refuses nothing.
"""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta

from starlette.types import Scope

from airflow_asyncaction.exceptions import SignatureError
from airflow_asyncaction.protocol.actions import Action, action_to_json
from airflow_asyncaction.protocol.reports import Report
from airflow_asyncaction.settings import Settings
from airflow_asyncaction.store import metrics
from airflow_asyncaction.store.known_actions import Submission
from airflow_asyncaction.store.proof import Credentials
from airflow_asyncaction.store.report_batches import ReportBatches
from airflow_asyncaction.web.asgi import mounted_path
from airflow_asyncaction.web.rate_limits import Budgets, budget_key
from airflow_asyncaction.web.security import Caller, parse_signed_scope
from airflow_asyncaction.web.wsgi_adapter import BufferedResponse

_PATHS = ("/status", "/", "")


class FastReports:
    """Responds to ordinary reports.

    :param budgets: the budgets that also count requests to the Flask app
    """

    def __init__(self, batches: ReportBatches, settings: Settings, budgets: Budgets) -> None:
        self.batches = batches
        self._settings = settings
        self._budgets = budgets

    async def respond(self, scope: Scope, body: bytes) -> BufferedResponse | None:
        """Return the response to a report; ``None`` if the Flask app has to respond to the request.

        :param body: the whole body
        """
        if scope["method"] != "POST" or mounted_path(scope) not in _PATHS:
            return None
        started_at = time.monotonic()
        try:
            signed = parse_signed_scope(scope, body, self._settings, Caller.JOB)
        except SignatureError:
            return None
        key = budget_key(signed.action_id)
        if not self._budgets.has_room(key, len(body)):  # the app refuses it, or warns in the action's log
            return None

        def unseal(credentials: Credentials | None) -> Report:
            return signed.read_report(signed.verify(credentials))

        submission = Submission(signed.action_id, unseal, signed.envelope, signed.now)
        action = await self.batches.apply(submission)
        if action is None:
            return None
        self._budgets.spend(key, len(body))
        metrics.count_report(None, timedelta(seconds=time.monotonic() - started_at))
        return _response(action, signed.now)


def _response(action: Action, now: datetime) -> BufferedResponse:
    """Return the response that ``routes.jobs`` returns."""
    body = json.dumps(action_to_json(action, now=now), separators=(",", ":")).encode() + b"\n"
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    return BufferedResponse(200, headers, body)
